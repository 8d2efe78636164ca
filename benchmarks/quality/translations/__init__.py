"""Right pairs of English and Chinese, faults planted into them, and what the recipe's chain of checks says of both.

Pairs, words and planting know nothing of `operators/`: what is measured must not lend its words to the measure.
"""
