"""Retrieval: ranks all captions for each image, and all images for each caption."""

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
# CLIP_benchmark names the modality that is retrieved.
_PUBLIC_NAMES = {"image_to_text": "text_retrieval_recall", "text_to_image": "image_retrieval_recall"}


@dataclasses.dataclass(frozen=True)
class Retrieval(Evaluation):
    """Measures recall of an image's captions among all captions, and of a caption's images among all images."""

    public_name = "zeroshot_retrieval"

    shared_captions: bool = setting(
        False,
        "merge captions with the same text, for which any of their images is correct; CLIP_benchmark, and thus "
        "published results, count each caption only with its own image",
        fixed=False,
    )

    def check(self, data: Data) -> None:
        """Raises UserError unless the first record has captions."""
        if not captions(data.source[0]):
            raise UserError(
                "retrieval: expected images with captions; found images with labels only. Use a dataset with captions, "
                "or the task zero_shot."
            )

    def evaluate(self, model: ModelUnderTest, data: Data) -> list[Metric]:
        """Returns the metrics of `retrieval` over all records, including those with an unreadable image."""
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
    """Returns recall at 1, 5 and 10 in both directions, the mean recall at 1, chance, and the numbers of candidates.

    Any caption of an image counts as correct for it, and any image of a caption.

    Args:
      images: unit rows ``[n, D]``.
      texts: unit rows ``[m, D]``.
      image_of_text: int ``[m]``, the row of each text's image; -1: unreadable.
      sentence: int ``[m]``, equal for texts that are the same caption of several images; None: each text is a separate
        caption of one image.
      unreadable: number of additional, unreadable images, which retrieve nothing and are never retrieved.
    """
    if sentence is not None:
        _, first, caption_of_text = np.unique(sentence, return_index=True, return_inverse=True)
        texts = texts[first]
    else:
        caption_of_text = np.arange(len(texts))
    read, size = image_of_text >= 0, len(images) + unreadable
    own = csr_array(
        (np.ones(read.sum(), bool), (image_of_text[read], caption_of_text[read])), (len(images), len(texts))
    )
    own.sum_duplicates()
    # An unreadable image retrieves nothing.
    image_hits = np.concatenate([hits_at(images, texts, own, _KS), np.zeros((unreadable, len(_KS)))])
    directions = {"image_to_text": image_hits, "text_to_image": hits_at(texts, images, own.T.tocsr(), _KS)}
    pairs = own.count_nonzero()  # correct pairs; a uniform guess is correct with probability pairs / (images * texts)
    mean = float(np.mean([hits[:, 0].mean() for hits in directions.values()]))
    return [
        Metric(
            "retrieval/mean_recall_1",
            mean,
            public_name="mean_recall@1",
            samples=_for_each_image(directions["image_to_text"][:, 0], directions["text_to_image"][:, 0], own),
        ),
        *(
            Metric(
                f"retrieval/{name}/recall_{k}",
                float(right.mean()),
                public_name=f"{_PUBLIC_NAMES[name]}@{k}",
                samples=right,
            )
            for name, hits in directions.items()
            for k, right in zip(_KS, hits.T, strict=True)
        ),
        Metric("retrieval/image_to_text/chance", pairs / (size * len(texts)), higher_is_better=None),
        Metric("retrieval/text_to_image/chance", pairs / (size * len(texts)), higher_is_better=None),
        count("retrieval/images", size),
        count("retrieval/captions", len(texts)),
    ]


def _for_each_image(image_hits: np.ndarray, text_hits: np.ndarray, own: csr_array) -> np.ndarray:
    """Returns values of each image, ``[n]``, whose mean is that of the mean hits of both directions.

    A text counts for the images that it is correct for, in equal parts; no text of unreadable images is ever hit.

    Args:
      image_hits: ``[n]``, unreadable images last.
      text_hits: ``[m]``.
      own: where a text is correct for an image, ``[readable images, m]``.
    """
    parts = np.zeros(len(image_hits))
    parts[: own.shape[0]] = own @ (text_hits / np.maximum(own.sum(axis=0), 1))
    return (image_hits + parts * len(image_hits) / len(text_hits)) / 2
