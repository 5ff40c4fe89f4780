"""The GPU as a concurrency slot: stages tagged `gpu` wait for one where the server limits them."""

from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound

GPU = "gpu"
GPU_LIMIT = f"tag:{GPU}"  # as the server names it
GPU_STAGES = frozenset({"train", "predict", "explain"})


def limit_gpu_stages(slots: int) -> int:
    """Let at most so many stages that use a GPU run at a time, whichever flow they belong to.

    A limit that the server has already stays: `prefect gcl update` changes it.

    Returns:
        How many slots are taken now: by other runs, or left so by a server that was killed.
    """
    with get_client(sync_client=True) as client:
        try:
            return client.read_global_concurrency_limit_by_name(GPU_LIMIT).active_slots
        except ObjectNotFound:
            client.create_concurrency_limit(GPU, slots)
            return 0
