"""All figures of a GPU, in under ten minutes, into a file that the next run goes on with.

    python benchmarks/gpu.py [--out gpu.json] [--parts NAME ...] [--seconds S] [--again]

A part measures some ways to do one thing, each for a number of seconds on the same photos (the real ones of
../shared/real_images where they are, otherwise drawn ones), decoding included where it says so:

- `forward`: ResNet-34 at 224 pixels on tensors that lie ready, classifying and learning: the limits
- `decode`: whole photos on all CPU cores, and on the GPU by torchvision (nvJPEG) and torchcodec
- `infer`: our worker on thumbnails and on originals, a plain loader of torch's, plain fastai
- `train`: an epoch of our training on thumbnails, and plain fastai's
- `detect-yolo11s` (960 pixels), `detect-yolov5x6` (1280, MegaDetector v5's size): our worker, ONNX Runtime
  fed by Pillow, torch in short floats on ready tensors

With a GPU, `busy` is for how much of a way's time it worked, as nvidia-smi says; the goal is 0.85. A way
whose packages are not installed is left out, and said so. Ends with 1 where a part failed or a target is
missed.

    python benchmarks/gpu.py --device cpu --quick        # the logic alone, tiny networks, no targets
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import os
import sys
import tempfile
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]  # on a machine where nothing of ours is installed

import numpy as np  # noqa: E402
import torch  # noqa: E402
from busy import watched_gpu  # noqa: E402
from networks import count_work, random_detector, write_onnx  # noqa: E402
from photos import pictures  # noqa: E402
from PIL import Image, ImageFile, ImageOps  # noqa: E402
from torch import nn  # noqa: E402

CORES = len(os.sched_getaffinity(0))
BUSY, OF_FASTAI, OF_LIMIT, OF_ONNXRUNTIME = 0.85, 5.0, 0.85, 1.5
ImageFile.LOAD_TRUNCATED_IMAGES = True


@dataclass
class Setting:
    """What a part is measured with."""

    device: str
    seconds: float
    quick: bool
    scratch: Path
    photos: list[bytes]
    ways: dict[str, dict[str, float]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    short = torch.bfloat16

    @property
    def arch(self) -> str:
        return "shufflenet_v2_x0_5" if self.quick else "resnet34"

    @property
    def batch(self) -> int:
        return 4 if self.quick else 256

    @property
    def size(self) -> int:
        return 64 if self.quick else 224

    def measure(self, name: str, work: Callable[[float], int]) -> None:
        """Add a way: `work` runs for some seconds, and returns how many images that was."""
        try:
            with watched_gpu() as busy:
                work(min(1.0, self.seconds / 4))  # caches, compilers, memory
                synchronise(self.device)
                began, moment = time.perf_counter(), time.time()
                n = work(self.seconds)
                synchronise(self.device)
                seconds = time.perf_counter() - began
            speed = round(n / seconds, 2)
            self.ways[name] = {"images_per_s": speed, "images": n, "seconds": round(seconds, 2)}
            if (share := busy.between(moment, moment + seconds)) is not None:
                self.ways[name]["busy"] = round(share, 3)
            print(f"  {name}: {n / seconds:,.1f} images/s" + (f", GPU busy {share:.0%}" if share else ""))
        except ModuleNotFoundError as problem:
            self.leave_out(name, f"needs {problem.name}")
        except (ImportError, RuntimeError, ValueError, AttributeError) as problem:
            self.leave_out(name, f"{type(problem).__name__}: {' '.join(str(problem).split())[:160]}")
        if self.device == "cuda":
            torch.cuda.empty_cache()

    def leave_out(self, name: str, why: str) -> None:
        self.left_out[name] = why
        print(f"  {name}: left out: {why}")

    def stream(self, seconds: float) -> Iterator[bytes]:
        """The photos again and again, for a number of seconds, but at least once."""
        end, n = time.perf_counter() + seconds, 0
        while n < len(self.photos) or time.perf_counter() < end:
            yield self.photos[n % len(self.photos)]
            n += 1


def forward(setting: Setting) -> dict[str, float]:
    network = classifier(setting).to(setting.device, memory_format=torch.channels_last)
    images = torch.rand(setting.batch, 3, setting.size, setting.size, device=setting.device)
    images = images.contiguous(memory_format=torch.channels_last)

    def classify(seconds: float) -> int:
        with torch.inference_mode(), torch.autocast(setting.device, setting.short):
            return repeat(lambda: network(images), seconds, len(images), setting.device)

    def learn(seconds: float) -> int:
        truth = torch.zeros(len(images), dtype=torch.long, device=setting.device)
        optimiser = torch.optim.AdamW(network.parameters())

        def step() -> None:
            optimiser.zero_grad(set_to_none=True)
            with torch.autocast(setting.device, setting.short):
                loss = nn.functional.cross_entropy(network(images), truth)
            loss.backward()
            optimiser.step()

        return repeat(step, seconds, len(images), setting.device)

    setting.measure("classifying", classify)
    setting.measure("learning", learn)
    return {}


def decode(setting: Setting) -> dict[str, float]:
    from torchvision.io import ImageReadMode, decode_jpeg

    def on_cores(one: Callable[[bytes], Any]) -> Callable[[float], int]:
        def work(seconds: float) -> int:
            with ThreadPoolExecutor(CORES) as pool:
                return sum(1 for _ in ahead(pool, one, setting.stream(seconds), 4 * CORES))

        return work

    def with_simplejpeg() -> Callable[[float], int]:
        from simplejpeg import decode_jpeg as decode_simple

        return on_cores(lambda data: decode_simple(data, strict=False))

    def on_gpu(seconds: float) -> int:
        tensors = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in setting.photos]
        batch = 16

        def some() -> None:
            decode_jpeg(tensors[:batch], mode=ImageReadMode.RGB, device=setting.device)

        return repeat(some, seconds, len(tensors[:batch]), setting.device)

    def by_torchcodec(seconds: float) -> int:
        from torchcodec.decoders import decode_image  # where a version of it has that

        return repeat(
            lambda: decode_image(setting.photos[0], device=setting.device), seconds, 1, setting.device
        )

    setting.measure("Pillow", on_cores(lambda data: np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))))
    setting.measure("simplejpeg", lambda seconds: with_simplejpeg()(seconds))
    if setting.device == "cuda":
        setting.measure("nvJPEG, torchvision", on_gpu)
        setting.measure("torchcodec", by_torchcodec)
    else:
        setting.leave_out("nvJPEG, torchvision", "needs a GPU")
    return ratios(setting, "nvJPEG, torchvision", {"of_simplejpeg": "simplejpeg", "of_pillow": "Pillow"})


def infer(setting: Setting) -> dict[str, float]:
    thumbnails = [thumbnail(data) for data in setting.photos]

    @cache
    def predictor() -> Any:
        from camtrap_batch.model import ModelInfo, Predictor, save_model

        info = ModelInfo(
            "",
            setting.arch,
            ("a", "b", "c"),
            ((), (), ()),
            setting.size,
            (0.485, 0.456, 0.406),
            (0.229, 0.224, 0.225),
            1.0,
        )
        info = save_model(setting.scratch / "models", classifier(setting, 3), info, {}, [])
        folder = setting.scratch / "models" / info.model_id
        return Predictor(folder, setting.device, None, setting.batch)

    def ours(photos: list[bytes]) -> Callable[[float], int]:
        def work(seconds: float) -> int:
            from camtrap_batch.detection.crops import Picture

            shown = replace(setting, photos=photos)
            return len(predictor().classify(Picture(data) for data in shown.stream(seconds)))

        return work

    network = classifier(setting).to(setting.device)

    def plain(seconds: float) -> int:
        def together(batch: list[torch.Tensor]) -> int:
            network(torch.stack(batch).to(setting.device)).softmax(1).cpu()
            return len(batch)

        n, batch = 0, []
        with ThreadPoolExecutor(CORES) as pool, torch.inference_mode():
            prepare = partial(plain_tensor, size=setting.size)
            for pixels in ahead(pool, prepare, setting.stream(seconds), 64):
                batch.append(pixels)
                if len(batch) == setting.batch:
                    n, batch = n + together(batch), []
            return n + (together(batch) if batch else 0)

    def fastai(seconds: float) -> int:
        from fastai.vision.all import ImageDataLoaders, Learner, Resize

        n = max(len(setting.photos), int(40 * seconds))
        files = write_files(setting, n)
        loaders = ImageDataLoaders.from_lists(
            setting.scratch, files, [str(i % 2) for i in range(n)], valid_pct=0.1, bs=min(64, setting.batch),
            item_tfms=Resize(setting.size), num_workers=min(CORES, 8), device=torch.device(setting.device),
        )  # fmt: skip
        learn = Learner(loaders, classifier(setting, 2), loss_func=nn.CrossEntropyLoss())
        with learn.no_bar(), learn.no_logging():
            learn.get_preds(dl=loaders.test_dl(files))
        return n

    setting.measure("camtrap, thumbnails", ours(thumbnails))
    setting.measure("camtrap, originals", ours(setting.photos))
    setting.measure("a plain loader of torch's", plain)
    setting.measure("plain fastai", fastai)
    return ratios(
        setting,
        "camtrap, thumbnails",
        {"of_fastai": "plain fastai", "of_plain_torch": "a plain loader of torch's"},
    )


def train(setting: Setting) -> dict[str, float]:
    def ours(seconds: float) -> int:
        from camtrap_batch.model import Samples, TrainConfig
        from camtrap_batch.model import train as train_model

        n = setting.batch * (2 if setting.quick else max(2, int(1500 * seconds / setting.batch)))
        some = [thumbnail(data) for data in setting.photos]
        jpegs = [some[i % len(some)] for i in range(n)]
        samples = Samples(
            image_ids=[str(i) for i in range(n)],
            labels=["ab"[i % 2] for i in range(n)],
            splits=["valid" if i % 10 == 0 else "train" for i in range(n)],
            weights=np.ones(n, np.float32),
            locations=[f"L{i % 10}" for i in range(n)],
            is_night=np.zeros(n, bool),
            category_ids={"a": [1], "b": [2]},
            jpegs=jpegs,
        )
        config = TrainConfig(
            setting.arch, "none", setting.size, 1, min(setting.batch, n // 4), 1e-3, device=setting.device
        )
        train_model(samples, config, setting.scratch / "trained", {}, lambda event: None)
        return n

    def fastai(seconds: float) -> int:
        from fastai.vision.all import ImageDataLoaders, Learner, Resize, aug_transforms

        n = max(4 * setting.batch if setting.quick else len(setting.photos), int(20 * seconds))
        files = write_files(setting, n)
        loaders = ImageDataLoaders.from_lists(
            setting.scratch, files, [str(i % 2) for i in range(n)], valid_pct=0.1, bs=min(64, setting.batch),
            item_tfms=Resize(setting.size), batch_tfms=aug_transforms(), num_workers=min(CORES, 8),
            device=torch.device(setting.device),
        )  # fmt: skip
        learn = Learner(loaders, classifier(setting, 2), loss_func=nn.CrossEntropyLoss())
        with learn.no_bar(), learn.no_logging():
            learn.fit_one_cycle(1, 1e-3)
        return n

    setting.measure("camtrap, thumbnails", ours)
    setting.measure("plain fastai", fastai)
    return ratios(setting, "camtrap, thumbnails", {"of_fastai": "plain fastai"})


def detect(name: str, size: int) -> Callable[[Setting], dict[str, float]]:
    def part(setting: Setting) -> dict[str, float]:
        side = 128 if setting.quick else size
        network = random_detector("tiny" if setting.quick else name)
        weights, gflops = count_work(network, side)
        print(f"  {weights:.1f}M weights, {gflops:.1f} GFLOPs at {side} pixels")
        many = 2 if setting.quick else 8
        pixels = torch.rand(many, 3, side * 3 // 4, side)

        @cache
        def written() -> Path:
            return write_onnx(network, setting.scratch / f"{name}.onnx", side)

        @cache
        def finder() -> Any:
            from camtrap_batch.detection.onnx import OnnxDetector

            detector = OnnxDetector.open(str(written()), size=side)
            made = detector.finder(detector.path, setting.device, CORES, many, "auto")
            print(f"  ({made.network.runtime}, {made.network.precision})")
            return made

        @cache
        def session() -> Any:
            import onnxruntime

            first = "CUDAExecutionProvider" if setting.device == "cuda" else "CPUExecutionProvider"
            if first not in onnxruntime.get_available_providers():
                raise RuntimeError(f"this ONNX Runtime has no {first}")
            opened = onnxruntime.InferenceSession(str(written()), providers=[first])
            if opened.get_providers()[0] != first:
                raise RuntimeError(f"ONNX Runtime could not use {first}")
            return opened

        def plain(seconds: float) -> int:
            n = 0
            with ThreadPoolExecutor(CORES) as pool:
                for frame in ahead(pool, partial(letterboxed, side=side), setting.stream(seconds), 16):
                    session().run(None, {"images": frame})
                    n += 1
            return n

        def in_torch(seconds: float) -> int:
            where = {"device": setting.device, "dtype": setting.short, "memory_format": torch.channels_last}
            placed, there = copy.deepcopy(network).to(**where), pixels.to(**where)
            with torch.inference_mode():
                return repeat(lambda: placed(there), seconds, many, setting.device)

        def ours(seconds: float) -> int:
            return sum(1 for _ in finder().find(setting.stream(seconds)))

        setting.measure("camtrap detect", ours)
        setting.measure("ONNX Runtime and Pillow", plain)
        setting.measure("torch, ready tensors", in_torch)
        found = ratios(
            setting,
            "camtrap detect",
            {"of_onnxruntime": "ONNX Runtime and Pillow", "of_limit": "torch, ready tensors"},
        )
        return {**found, "weights_m": round(weights, 1), "gflops": round(gflops, 1)}

    return part


PARTS: dict[str, Callable[[Setting], dict[str, float]]] = {
    "forward": forward,
    "decode": decode,
    "infer": infer,
    "train": train,
    "detect-yolo11s": detect("yolo11s", 960),
    "detect-yolov5x6": detect("yolov5x6", 1280),
}
TARGETS = {"of_fastai": OF_FASTAI, "of_limit": OF_LIMIT, "of_onnxruntime": OF_ONNXRUNTIME}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--out", default="gpu.json", metavar="FILE", help="results; its parts are not repeated"
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="NAME")
    parser.add_argument("--seconds", type=float, default=12, metavar="S", help="of each way (12)")
    parser.add_argument("--limit", type=float, default=560, metavar="S", help="no part begins after it (560)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny networks and few photos: the logic alone")
    parser.add_argument("--again", action="store_true", help="also parts that the file has already")
    parser.add_argument("--scratch", metavar="DIR", help="on the disk to be used (default: the system's)")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("torch finds no GPU here: --device cpu --quick tries the logic")
        return 2
    out = Path(options.out)
    results = json.loads(out.read_text()) if out.exists() else {}
    results |= {"machine": machine(options.device)}
    done = results.setdefault("parts", {})
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=options.scratch, prefix="gpu-") as scratch:
        photos = pictures(4 if options.quick else 64)
        for name in options.parts:
            if name in done and not options.again:
                print(f"{name}: done before ({done[name].get('error', 'see the file')})")
                continue
            if time.monotonic() - began > options.limit:
                print(f"{name}: no time left; the same command goes on with it")
                continue
            print(f"{name}:", flush=True)
            # What the machine does not survive is not tried again by itself.
            done[name] = {"error": "it was begun, and did not end"}
            write(out, results)
            folder = Path(scratch, name)
            folder.mkdir()
            seconds = 0.2 if options.quick else options.seconds
            setting = Setting(options.device, seconds, options.quick, folder, photos)
            done[name] = run_part(PARTS[name], setting)
            write(out, results)
    return judge(done, options.parts, options.device == "cuda" and not options.quick)


def run_part(part: Callable[[Setting], dict[str, float]], setting: Setting) -> dict[str, Any]:
    began = time.perf_counter()
    try:
        ratios_ = part(setting)
    except Exception as problem:
        traceback.print_exc()
        return {"error": f"{type(problem).__name__}: {' '.join(str(problem).split())[:200]}"}
    return {
        "ways": setting.ways,
        "left_out": setting.left_out,
        **ratios_,
        "took_s": round(time.perf_counter() - began, 1),
    }


def judge(done: dict[str, Any], names: Iterable[str], has_targets: bool) -> int:
    missed = 0
    for name in names:
        found = done.get(name, {"error": "not measured"})
        if "error" in found:
            print(f"{name}: {found['error']}")
            missed += 1
            continue
        for key, least in TARGETS.items() if has_targets else ():
            if key in found:
                print(f"{name}, {key}: {found[key]:.2f}, at least {least:g} {verdict(found[key] >= least)}")
                missed += found[key] < least
        ours = next(iter(found["ways"].values()), {})
        if has_targets and "busy" in ours:
            print(f"{name}, GPU busy: {ours['busy']:.2f}, at least {BUSY:g} {verdict(ours['busy'] >= BUSY)}")
            missed += ours["busy"] < BUSY
    return int(missed > 0)


def verdict(holds: bool) -> str:
    return "holds" if holds else "MISSED"


def ratios(setting: Setting, ours: str, theirs: dict[str, str]) -> dict[str, float]:
    if ours not in setting.ways:
        return {}
    speed = setting.ways[ours]["images_per_s"]
    return {
        key: round(speed / setting.ways[name]["images_per_s"], 3)
        for key, name in theirs.items()
        if name in setting.ways and setting.ways[name]["images_per_s"]
    }


def machine(device: str) -> dict[str, str]:
    import importlib.metadata as metadata

    names = ("torch", "torchvision", "fastai", "dask", "onnxruntime", "onnxruntime-gpu", "openvino", "onnx")
    there = {dist.metadata["Name"].lower(): dist.version for dist in metadata.distributions()}
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else f"{CORES} cores",
        "cores": str(CORES),
        "measured": time.strftime("%Y-%m-%d %H:%M"),
        **{name: there.get(name, "not installed") for name in names},
    }


def write(out: Path, results: dict[str, Any]) -> None:
    """Whole, or not at all: the next run reads it."""
    staged = out.with_name(f".{out.name}.new")
    staged.write_text(json.dumps(results, indent=1) + "\n")
    staged.replace(out)


def repeat(work: Callable[[], object], seconds: float, images: int, device: str) -> int:
    """How many images were done in a number of seconds; what is queued on the GPU counts when it is done."""
    end, n = time.perf_counter() + seconds, 0
    while n == 0 or time.perf_counter() < end:
        work()
        n += images
        if n % (8 * images) == 0:
            synchronise(device)
    return n


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def ahead(
    pool: ThreadPoolExecutor, work: Callable[[bytes], Any], items: Iterable[bytes], n: int
) -> Iterator[Any]:
    """`map(work, items)` on threads, `n` results before the one asked for."""
    waiting: deque[Any] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) > n:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def classifier(setting: Setting, n_classes: int = 8) -> nn.Module:
    from torchvision.models import get_model

    torch.manual_seed(0)
    return get_model(setting.arch, weights=None, num_classes=n_classes).eval()


def plain_tensor(data: bytes, size: int) -> torch.Tensor:
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    return torch.from_numpy(np.array(image.resize((size, size)))).permute(2, 0, 1).float() / 255


def letterboxed(data: bytes, side: int) -> np.ndarray:
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    scale = side / max(image.size)
    width, height = (max(1, round(extent * scale)) for extent in image.size)
    pixels = np.full((-(-height // 64) * 64, -(-width // 64) * 64, 3), 114, np.uint8)
    pixels[:height, :width] = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], np.float32) / 255


def thumbnail(data: bytes) -> bytes:
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    scale = 256 / min(image.size)
    file = io.BytesIO()
    image.resize((round(image.width * scale), round(image.height * scale))).save(file, "JPEG", quality=85)
    return file.getvalue()


def write_files(setting: Setting, n: int) -> list[Path]:
    folder = setting.scratch / "files"
    folder.mkdir(exist_ok=True)
    files = [folder / f"{i}.jpg" for i in range(n)]
    for number, file in enumerate(files):
        if not file.exists():
            file.write_bytes(setting.photos[number % len(setting.photos)])
    return files


if __name__ == "__main__":
    sys.exit(main())
