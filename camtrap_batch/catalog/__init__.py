"""PROVISIONAL"""
import json, os
from dataclasses import dataclass
import pandas as pd, pyarrow as pa, pyarrow.csv
from camtrap_batch.errors import InputError
from camtrap_batch.store.schemas import CATALOG
@dataclass
class Catalog:
    table: pa.Table; categories: list; notes: dict
def read_cameras(path):
    return pyarrow.csv.read_csv(path)
def source_fingerprint(d):
    st=os.stat(d.metadata); return {"size":st.st_size,"m":st.st_mtime_ns}
def read_catalog(d):
    try: j=json.load(open(d.metadata))
    except FileNotFoundError: raise InputError(f"{d.metadata}: no such file")
    cats=[(c["id"],c.get("name") or "empty") for c in j["categories"]]; names=dict(cats)
    ann={}
    for a in j["annotations"]: ann.setdefault(a["image_id"],[]).append({"category_id":a["category_id"],"name":names.get(a["category_id"]),"count":a.get("count")})
    rows={}
    for i in j["images"]:
        dt=pd.to_datetime(i.get("datetime"),errors="coerce")
        if dt is not None and dt is not pd.NaT and dt.tzinfo: dt=dt.tz_localize(None)
        rows[i["id"]]=dict(image_id=str(i["id"]),file_name=i["file_name"],location=str(i["location"]) if i.get("location") is not None else None,deployment=None,seq_id=str(i["seq_id"]) if i.get("seq_id") is not None else None,
          frame_num=i.get("frame_num"),seq_num_frames=i.get("seq_num_frames"),datetime=None if dt is pd.NaT or dt is None else dt.to_pydatetime(),utc_offset_minutes=None,labels=ann.get(i["id"],[]),source="cct")
    t=pa.Table.from_pylist(list(rows.values()),CATALOG)
    return Catalog(t.sort_by([("location","ascending"),("seq_id","ascending"),("image_id","ascending")]),cats,{})
