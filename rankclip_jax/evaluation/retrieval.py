"""Retrieval: finding each image's own captions among all captions, and each caption's own images."""

import dataclasses

import numpy as np
from scipy.sparse import csr_array

from rankclip_jax.evaluation.evaluation import Data, Evaluation, ModelUnderTest
from rankclip_jax.evaluation.metric import Metric, count
from rankclip_jax.evaluation.recall import hits_at
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.setting import setting
from rankclip_jax.input_pipeline.source import captions

_KS = (1, 5, 10)
# CLIP_benchmark's names say what is retrieved.
_PUBLIC_NAMES = {"image_to_text": "text_retrieval_recall", "text_to_image": "image_retrieval_recall"}


@dataclasses.dataclass(frozen=True)
class Retrieval(Evaluation):
    """Are an image's captions the most similar to it, and a caption's images?"""

    public_name = "zeroshot_retrieval"

    shared_captions: bool = setting(
        False,
        "captions that read the same are one, of which any of its images is right; CLIP_benchmark, and so the "
        "published figures, count each with its own image alone",
        fixed=False,
    )

    def check(self, data: Data) -> None:
        """Needs captions; the first record is looked at."""
        if not captions(data.source[0]):
            raise UserError("the images have labels, and no captions to find.")

    def evaluate(self, model: ModelUnderTest, data: Data) -> list[Metric]:
        """See `retrieval`; among all records, those whose image could not be read too."""
        embedded = model.embed(data.source)
        texts, owners, sentence = embedded.text, embedded.image_of_text, embedded.sentence
        if orphans := len(embedded.unreadable_text):
            texts = np.concatenate([texts, embedded.unreadable_text])
            owners = np.concatenate([owners, np.full(orphans, -1)])
            sentence = np.concatenate([sentence, embedded.unreadable_sentence])
        return retrieval(
            embedded.image,
            texts,
            owners,
            sentence if self.shared_captions else None,
            unreadable=len(embedded.unreadable),
        )


def retrieval(
    images: np.ndarray,
    texts: np.ndarray,
    image_of_text: np.ndarray,
    sentence: np.ndarray | None = None,
    unreadable: int = 0,
) -> list[Metric]:
    """Recall at 1, 5 and 10, both ways, its mean at 1, that by guessing, and how many images and captions there are.

    An image is found by any of its captions, a caption by any of its images.

    Args:
      images: unit rows ``[n, D]``.
      texts: unit rows ``[m, D]``.
      image_of_text: int ``[m]``, the row of each text's image; -1: it could not be read.
      sentence: int ``[m]``, the same number for texts that are one caption of several images; None: each text is a
        caption of its own, of one image.
      unreadable: how many more images could not be read, each of which finds nothing and is not found.
    """
    if sentence is not None:
        _, first, which = np.unique(sentence, return_index=True, return_inverse=True)
        texts = texts[first]
    else:
        which = np.arange(len(texts))
    read, size = image_of_text >= 0, len(images) + unreadable
    own = csr_array((np.ones(read.sum(), bool), (image_of_text[read], which[read])), (len(images), len(texts)))
    own.sum_duplicates()
    both_ways = {
        "image_to_text": hits_at(images, texts, own, _KS).sum(axis=0) / size,
        "text_to_image": hits_at(texts, images, own.T.tocsr(), _KS).mean(axis=0),
    }
    pairs = own.count_nonzero()  # of which a guess, uniform over the candidates, is one
    mean = float(np.mean([recalls[0] for recalls in both_ways.values()]))
    return [
        Metric("retrieval/mean_recall_1", mean, public_name="mean_recall@1"),
        *(
            Metric(f"retrieval/{name}/recall_{k}", float(recall), public_name=f"{_PUBLIC_NAMES[name]}@{k}")
            for name, recalls in both_ways.items()
            for k, recall in zip(_KS, recalls, strict=True)
        ),
        Metric("retrieval/image_to_text/chance", pairs / (size * len(texts)), higher_is_better=None),
        Metric("retrieval/text_to_image/chance", pairs / (size * len(texts)), higher_is_better=None),
        count("retrieval/images", size),
        count("retrieval/captions", len(texts)),
    ]
