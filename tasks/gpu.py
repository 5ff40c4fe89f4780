"""The GPU as a concurrency slot: stages tagged `gpu` wait for one where the server limits them."""

from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound

GPU = "gpu"
GPU_STAGES = frozenset({"train", "predict", "explain"})


def limit_gpu_stages(slots: int) -> None:
    """Let at most so many stages that use a GPU run at a time, whichever flow they belong to.

    A limit that the server has already stays: `prefect concurrency-limit` changes it.
    """
    with get_client(sync_client=True) as client:
        try:
            client.read_concurrency_limit_by_tag(GPU)
        except ObjectNotFound:
            client.create_concurrency_limit(GPU, slots)
