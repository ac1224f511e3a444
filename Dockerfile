# diffsr in a container: weights included, nothing is fetched at run time.
#
#   docker build -t diffsr .                              for CPUs
#   docker build -t diffsr:cuda --build-arg TORCH=cu128 . for NVIDIA GPUs (run with --gpus all)
#   docker run --rm -v "$PWD:/work" diffsr in.jpg
#
# TORCH names the build of torch: cpu, or a CUDA version as cu126, cu128, cu130. PyTorch's own
# wheels bring CUDA's libraries, so that the base image needs none; the host needs the driver and
# the NVIDIA container toolkit.
FROM python:3.12-slim AS build
ARG TORCH=cpu
ARG TORCH_VERSION=2.13.0
ARG TORCH_INDEX=https://download.pytorch.org/whl
ARG EXTRAS=""
COPY . /source
# torch in the same command, or pip replaces it by another build when it picks a torchvision
RUN python -m venv /opt/diffsr \
 && /opt/diffsr/bin/pip install --no-cache-dir --extra-index-url "${TORCH_INDEX}/${TORCH}" \
    "torch==${TORCH_VERSION}+${TORCH}" "/source${EXTRAS:+[${EXTRAS}]}"

FROM python:3.12-slim
COPY --from=build /opt/diffsr /opt/diffsr
ENV PATH=/opt/diffsr/bin:$PATH HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1
RUN useradd --create-home diffsr
USER diffsr
WORKDIR /work
ENTRYPOINT ["diffsr"]
CMD ["--help"]
