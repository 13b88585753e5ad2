"""From a model's outputs to the mean of a row loss: what all objectives share."""

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from rankclip_jax.models.clip import Outputs
from rankclip_jax.objectives import pairwise
from rankclip_jax.objectives.pairwise import Metrics, RowLoss, Scalars, Similarities

VIEWS = {
    "image": "image_embedding",
    "text": "text_embedding",
    "image_augmented": "image_augmented_embedding",
    "text_augmented": "text_augmented_embedding",
}


def mean_loss(
    row_loss: RowLoss,
    outputs: Outputs,
    *,
    key: jax.Array,
    config: ConfigDict,
    mesh: Mesh | None,
    scalars: Scalars | None = None,
) -> tuple[jax.Array, Metrics]:
    """The mean of ``row_loss`` over the global batch, of embeddings ``image`` and ``text`` and scalar ``scale``.

    Where the outputs hold augmented views too, their contrastive loss is averaged in, as RankCLIP's release does
    with ``--inmodal``: ``(L + (CE(s x x_a', diagonal) + CE(s t t_a', diagonal)) / 2) / 2``.

    Args:
      row_loss: see `pairwise.mean_over_rows`.
      outputs: see `rankclip_jax.objectives`.
      key: orders the columns and breaks ties.
      config: the settings under ``config.objective``.
      mesh: the devices, or None.
      scalars: what else the loss depends on.
    """
    embeddings = {name: outputs[field] for name, field in VIEWS.items() if field in outputs}  # type: ignore[literal-required]

    def with_second_view(similarity: Similarities, scalars: Scalars) -> tuple[jax.Array, Metrics]:
        loss, metrics = row_loss(similarity, scalars)
        images = similarity.cross_entropy("image", "image_augmented", scalars["scale"])
        texts = similarity.cross_entropy("text", "text_augmented", scalars["scale"])
        second_view = (images + texts) / 2
        return (loss + second_view) / 2, metrics | {"second_view": second_view}

    return pairwise.mean_over_rows(
        with_second_view if "image_augmented" in embeddings else row_loss,
        embeddings,
        {"scale": outputs["logit_scale"], **(scalars or {})},
        key=key,
        mesh=mesh,
        chunk_size=config.chunk_size or None,
    )
