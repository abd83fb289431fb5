"""PROVISIONAL"""
from __future__ import annotations
import hashlib, io, os, warnings
from dataclasses import dataclass, field
import numpy as np
from PIL import Image
from camtrap_batch.errors import InputError

@dataclass(frozen=True)
class Listing:
    sizes: np.ndarray
    modified: list

@dataclass(frozen=True)
class ImageRoot:
    url: str
    storage_options: dict = field(default_factory=dict, hash=False)
    def check(self):
        if not os.path.isdir(self.url): raise InputError(f"{self.url}: no such folder (dataset.images)")
    def listing(self, names):
        sizes=[];mod=[]
        for n in names:
            try:
                if ".." in n: raise OSError
                st=os.stat(os.path.join(self.url,n)); sizes.append(st.st_size); mod.append(str(st.st_mtime_ns))
            except OSError: sizes.append(-1); mod.append(None)
        return Listing(np.array(sizes), mod)
    def read(self, n):
        if ".." in n: raise ValueError
        return open(os.path.join(self.url,n),"rb").read()

@dataclass
class Limits:
    max_pixels: int=200_000_000; timeout_s: float=60; thumbnail: int=256; quality: int=85
@dataclass
class Thumbnail:
    jpeg: bytes; width: int; height: int; scale: float
@dataclass
class Verdict:
    status: str; detail: str|None=None; format: str|None=None; mode: str|None=None; width: int|None=None; height: int|None=None
    bytes: int|None=None; sha256: str|None=None; dhash: int|None=None; datetime_exif: object=None; camera_make: str|None=None; camera_model: str|None=None
    is_night: bool|None=None; thumbnail: Thumbnail|None=None

def judge(data, name, limits):
    v=Verdict("ok", bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    if not data: v.status="empty_file"; return v
    try:
        im=Image.open(io.BytesIO(data)); v.width,v.height=im.size; v.format=im.format; v.mode=im.mode
        if im.size[0]*im.size[1]>limits.max_pixels: v.status="too_large"; return v
        im=im.convert("RGB"); s=limits.thumbnail/min(im.size); im=im.resize((round(im.size[0]*s),round(im.size[1]*s)))
        b=io.BytesIO(); im.save(b,"JPEG"); v.thumbnail=Thumbnail(b.getvalue(),*im.size,s); v.is_night=False
    except Exception as e:
        v.status="not_image" if v.format is None else "corrupt"; v.detail=str(e)
    return v
def judge_files(root, names, limits, *, clock):
    for n in names:
        if ".." in n: yield Verdict("unsafe_path"); continue
        try: d=root.read(n)
        except FileNotFoundError: yield Verdict("missing"); continue
        except OSError as e: yield Verdict("unreadable", str(e)); continue
        yield judge(d,n,limits)
