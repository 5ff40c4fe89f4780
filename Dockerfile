# The project as an image for Prefect's Docker work pool (deploy/docker-work-pool.json) or any host:
#   docker build -t idc .                                        for CPUs and CUDA GPUs
#   docker run --rm -v "$PWD/data:/idc/data" idc dvc repro       works on the data of this clone
FROM python:3.12-slim

RUN apt-get update \
    && apt-get install --yes --no-install-recommends git \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /idc
ENV PYTHONPATH=/idc/src:/idc \
    PYTHONUNBUFFERED=1 \
    DVC_NO_ANALYTICS=1 \
    MLFLOW_DISABLE_TELEMETRY=true \
    NO_ALBUMENTATIONS_UPDATE=1 \
    PREFECT_SERVER_ANALYTICS_ENABLED=false

# packages first: they change less often than the code
COPY pyproject.toml constraints.txt constraints-torch.txt README.md LICENSE ./
COPY src/idc/__init__.py src/idc/__init__.py
RUN pip install --no-cache-dir -c constraints.txt -c constraints-torch.txt -e '.[servers]'

COPY . .

# without git there is no repository to ask; results belong to whoever mounts the folders
RUN useradd --create-home --uid 1000 idc \
    && dvc config --local core.no_scm true \
    && chown -R idc:idc /idc
USER idc

CMD ["python", "-m", "flows.pipeline"]
