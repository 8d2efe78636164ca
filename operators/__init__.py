"""Operators by the name that a recipe uses. A new operator is one file, one test file and one line here."""

OPERATORS = {
    "size": "operators.size:Size",
    "phash": "operators.phash:Phash",
    "sharpness": "operators.sharpness:Sharpness",
    "text": "operators.text:Text",
    "dedup": "operators.dedup:Dedup",
    "select": "operators.select:Select",
    "recaption": "operators.recaption:Recaption",
    "phrases": "operators.phrases:Phrases",
    "ground": "operators.ground:Ground",
    "hard_negatives": "operators.hard_negatives:HardNegatives",
    "verify_negatives": "operators.verify_negatives:VerifyNegatives",
    "translate": "operators.translate:Translate",
}
