"""The GPU as a concurrency slot: stages tagged `gpu` wait for one if the server limits them."""

from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound

GPU = "gpu"
GPU_LIMIT = f"tag:{GPU}"  # as the server names it
GPU_STAGES = frozenset({"train", "predict", "explain"})


def limit_gpu_stages(slots: int) -> int:
    """Limit the number of stages that use a GPU at the same time, over all flows.

    An existing limit of the server stays: `prefect gcl update` changes it.

    Returns:
        The number of slots taken now: by other runs, or left taken by a server that was killed.
    """
    with get_client(sync_client=True) as client:
        try:
            return client.read_global_concurrency_limit_by_name(GPU_LIMIT).active_slots
        except ObjectNotFound:
            client.create_concurrency_limit(GPU, slots)
            return 0
