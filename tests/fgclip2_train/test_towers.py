"""Texts of both lengths go through their tower in one row."""

import torch

from fgclip2_train.model import Fgclip2Model
from fgclip2_train.model.configuration import FAMILY, sized


def test_a_text_is_encoded_the_same_alone_and_beside_texts_of_the_other_length():
    torch.manual_seed(0)
    tower = Fgclip2Model(sized(**FAMILY["tiny"], vocabulary=50)).double().text_model
    length, long_length = (
        tower.embeddings.position_embedding.weight.shape[0],
        tower.embeddings.position_embedding_ori.weight.shape[0],
    )
    short, long = torch.randint(50, (3, length)), torch.randint(50, (2, long_length))
    together = tower(short, long)
    apart = torch.cat([tower(short[:1]), tower(short[1:]), tower(long=long)])
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-12)
    assert tower(short[:0], long).shape == (2, together.shape[1])
