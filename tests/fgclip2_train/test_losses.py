"""Each loss against its formula written out plainly, and on the batches that break plain code."""

import math

import pytest
import torch
import torch.nn.functional as F

from fgclip2_train import losses


def units(*shape, seed=0):
    return F.normalize(torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)), dim=-1)


SCALE, BIAS = torch.tensor(9.0, dtype=torch.float64), torch.tensor(-7.0, dtype=torch.float64)


def plain_sigmoid(image, text, scale, bias, counted=None):
    logits = scale * image @ text.T + bias
    signs = 2 * torch.eye(len(image), dtype=image.dtype) - 1
    values = F.softplus(-signs * logits)
    return (values if counted is None else values * counted).sum() / len(image)


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_sigmoid_value_and_gradients_do_not_depend_on_the_chunk(chunk):
    ours = [tensor.clone().requires_grad_() for tensor in (units(7, 5), units(7, 5, seed=1), SCALE, BIAS)]
    plain = [tensor.detach().clone().requires_grad_() for tensor in ours]
    value, expected = losses.sigmoid_contrastive(*ours, chunk=chunk), plain_sigmoid(*plain)
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-12)
    (3 * value).backward()
    (3 * expected).backward()
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("scale", "bias"), [(112.0, -91.9), (112.0, -16.77), (1e4, 0.0), (1.0, 1e4), (1e-3, -1e4)])
def test_the_sigmoid_loss_is_exact_however_large_its_logits(scale, bias):
    torch.manual_seed(1)
    image = F.normalize(torch.randn(7, 3, dtype=torch.float64), dim=-1)
    text = F.normalize(image + 0.03 * torch.randn(7, 3, dtype=torch.float64), dim=-1)
    own = 2 * torch.eye(7, dtype=torch.float64) - 1
    wanted = -F.logsigmoid(own * (scale * image @ text.T + bias)).sum() / 7
    found = losses.sigmoid_contrastive(image, text, image.new_tensor(scale), image.new_tensor([bias]))
    torch.testing.assert_close(found, wanted, rtol=1e-13, atol=1e-12)


def test_pairs_that_say_the_same_are_left_out_and_own_pairs_never():
    image, text = units(4, 5), units(4, 5, seed=1)
    identity = torch.tensor([[1, 10], [1, 20], [2, 30], [3, 20]])  # rows 0, 1 share a picture; 1, 3 share a text
    counted = torch.ones(4, 4, dtype=torch.float64)
    for i, j in ((0, 1), (1, 0), (1, 3), (3, 1)):
        counted[i, j] = 0
    value = losses.sigmoid_contrastive(image, text, SCALE, BIAS, identity=identity, chunk=3)
    torch.testing.assert_close(value, plain_sigmoid(image, text, SCALE, BIAS, counted))


@pytest.mark.parametrize("rows", [1, 5])
def test_rows_that_do_not_count_change_nothing(rows):
    valid = torch.zeros(rows + 6, dtype=torch.bool)
    valid[:rows] = True
    region, text = units(rows + 6, 8), units(rows + 6, 8, seed=1)
    whole = torch.ones(rows, dtype=torch.bool)
    for loss in (
        lambda r, t, v: losses.region_contrastive(r, t, SCALE, v),
        lambda r, t, v: losses.text_intra_modal(t, v),
        lambda r, t, v: losses.text_intra_modal(t, v, removed="dropped", reduce="sum"),
    ):
        torch.testing.assert_close(loss(region, text, valid), loss(region[:rows], text[:rows], whole))


def plain_entropy(logits: list[float], right: int) -> float:
    return math.log(sum(math.exp(logit - logits[right]) for logit in logits))


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


@pytest.mark.parametrize("alike", [False, True])
@pytest.mark.parametrize("count", [1, 2, 9, 10, 11, 25])
def test_contrasts_of_regions_and_of_their_captions_are_the_plain_formulas(count, alike):
    """Fewer captions than the ten hardest, and all of them equal, included."""
    region, text = (units(1, 6).expand(count, -1) if alike else units(count, 6, seed=seed) for seed in (3, 4))
    cosine, near = (region @ text.T).tolist(), (text @ text.T).tolist()
    across = [[row[n] for row in cosine] for n in range(count)]
    contrast, apart = [], []
    for n in range(count):
        contrast += [plain_entropy([9 * value for value in rows[n]], n) for rows in (cosine, across)]
        kept = [0.0 if n == other or value > 0.95 else value for other, value in enumerate(near[n])]
        apart.append(math.log(sum(math.exp(value) for value in sorted(kept)[-10:])))
    valid = torch.ones(count, dtype=torch.bool)
    assert losses.region_contrastive(region, text, SCALE, valid).item() == pytest.approx(mean(contrast), abs=1e-12)
    assert losses.text_intra_modal(text, valid).item() == pytest.approx(mean(apart), abs=1e-12)


@pytest.mark.parametrize("threshold", [0.0, 1.7, 10.0])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_terms_of_hard_groups_are_the_plain_formulas(count, threshold):
    region, texts = units(count, 6, seed=5), units(count, 11, 6, seed=6)
    logit = (9 * torch.einsum("hd,gkd->hgk", region, texts)).tolist()  # [region][group][text]
    batch, group, rank, margin = [], [], [], []
    for n in range(count):
        everything = [logit[n][other][0] for other in range(count)]
        everything += [value for other in range(count) for value in logit[n][other][1:]]
        batch += [plain_entropy(everything, n), plain_entropy([logit[other][n][0] for other in range(count)], n)]
        positive, *negatives = logit[n][n]
        group.append(plain_entropy([positive, *negatives], 0))
        rank += [max(0.0, threshold + negative - positive) for negative in negatives]
        margin.append(positive - mean(negatives))
    start, valid = torch.tensor(threshold, dtype=torch.float64), torch.ones(count, dtype=torch.bool)
    hard = losses.hard_negatives(region, texts, SCALE, start, valid)
    found = [value.item() for value in (hard.batch, hard.group, hard.rank, hard.margin)]
    assert found == pytest.approx([mean(batch), mean(group), mean(rank), mean(margin)], abs=1e-12)
    after = losses.next_threshold(hard.margin, valid.sum(), start)
    assert after.item() == pytest.approx(min(10.0, max(0.0, mean(margin))), abs=1e-12)


def test_a_batch_without_regions_gives_zero_and_zero_gradients():
    none = torch.zeros(3, dtype=torch.bool)
    region, text, texts = (t.requires_grad_() for t in (units(3, 8), units(3, 8, seed=1), units(3, 11, 8, seed=2)))
    hard = losses.hard_negatives(region, texts, SCALE, torch.tensor(0.5), none)
    total = losses.region_contrastive(region, text, SCALE, none) + losses.text_intra_modal(text, none)
    total = total + hard.batch + hard.group + hard.rank
    total.backward()
    assert total.item() == 0 and hard.margin.item() == 0
    assert all(not tensor.grad.any() and tensor.grad.isfinite().all() for tensor in (region, text, texts))


def test_equal_captions_may_be_left_out_of_the_region_contrast():
    """Regions that equal their shared caption cost nothing then, and ln 2 each where they push each other away."""
    region = torch.eye(4, 8, dtype=torch.float64)
    region[3] = region[0]
    everything, far = torch.ones(4, dtype=torch.bool), torch.tensor(1000.0, dtype=torch.float64)
    alone = losses.region_contrastive(region, region, far, everything, identity=torch.tensor([5, 6, 7, 5]))
    pushed = losses.region_contrastive(region, region, far, everything)
    torch.testing.assert_close(
        torch.stack([alone, pushed]), torch.tensor([0, 0.5], dtype=torch.float64) * torch.tensor(2.0).log()
    )


def test_equal_positives_may_be_left_out_of_the_contrast_over_all_hard_texts():
    """Regions 0 and 2 have one positive; it is also among the negatives of group 1. Neither text nor region may count against it."""
    texts = torch.eye(33, dtype=torch.float64).view(3, 11, 33).clone()
    texts[2, 0] = texts[1, 4] = texts[0, 0]
    region = texts[:, 0]
    identity = torch.arange(33).view(3, 11)
    identity[2, 0] = identity[1, 4] = identity[0, 0]
    everything, far = torch.ones(3, dtype=torch.bool), torch.tensor(1000.0, dtype=torch.float64)

    def batch_term(**options):
        return losses.hard_negatives(region, texts, far, SCALE, everything, **options).batch.item()

    ln = torch.tensor([2.0, 3.0], dtype=torch.float64).log()
    assert batch_term(identity=identity) == pytest.approx(0, abs=1e-9)
    assert batch_term() == pytest.approx(2 * (ln[1] + ln[0]).item() / 2 / 3)  # two rows: three such texts, two such regions


@pytest.mark.parametrize("chunk", [1, 3])
def test_region_terms_do_not_depend_on_the_chunk(chunk):
    valid = torch.tensor([True, True, False, True, True, True, False])
    identity = torch.randint(0, 4, (7, 11), generator=torch.Generator().manual_seed(0))
    found = {}
    for size in (chunk, 100):
        leaves = [t.requires_grad_() for t in (units(7, 5), units(7, 5, seed=1), units(7, 11, 5, seed=2), SCALE.clone())]
        region, text, texts, scale = leaves
        hard = losses.hard_negatives(region, texts, scale, torch.tensor(0.5), valid, identity=identity, chunk=size)
        terms = [
            losses.region_contrastive(region, text, scale, valid, identity=identity[:, 0], chunk=size),
            losses.text_intra_modal(text, valid, hardest=3, language=identity[:, 1] % 2, chunk=size),
            losses.text_intra_modal(text, valid, hardest=3, removed="dropped", reduce="sum", chunk=size),
            *(hard.batch, hard.group, hard.rank),
        ]
        sum((2 + number) * term for number, term in enumerate(terms)).backward()
        found[size] = [*terms, *(leaf.grad for leaf in leaves)]
    for one, other in zip(found[chunk], found[100], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_chunks_of_the_region_terms_leave_no_matrix_behind():
    """What the backward keeps is a few rows of features for each chunk, not similarities of all with all."""
    kept: list[int] = []

    def note(tensor):
        kept.append(tensor.numel())
        return tensor

    rows = 64
    leaves = [units(rows, 4), units(rows, 4, seed=1), units(rows, 11, 4, seed=2)]
    region, text, texts = (leaf.requires_grad_() for leaf in leaves)
    everything = torch.ones(rows, dtype=torch.bool)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        losses.region_contrastive(region, text, SCALE, everything, chunk=8)
        losses.text_intra_modal(text, everything, chunk=8)
        losses.hard_negatives(region, texts, SCALE, SCALE, everything, chunk=8)
    assert max(kept) <= rows * 11 * 4 < rows * rows


def test_intra_modal_compares_within_a_language_only():
    text, everything = units(6, 8), torch.ones(6, dtype=torch.bool)
    language = torch.tensor([0, 0, 0, 1, 1, 1])
    apart = torch.stack([losses.text_intra_modal(part, everything[:3]) for part in (text[:3], text[3:])]).mean()
    torch.testing.assert_close(losses.text_intra_modal(text, everything, language=language), apart)


def test_the_threshold_is_kept_without_groups_and_clamped_with_them():
    old, margin = torch.tensor(0.8), torch.tensor(12.0)
    for over in ("ranks", "pairs"):
        assert losses.next_threshold(margin, torch.tensor(0), old, over=over) == old
        assert losses.next_threshold(margin, torch.tensor(4), old, over=over) == 10
        assert losses.next_threshold(-margin, torch.tensor(4), old, over=over) == 0
