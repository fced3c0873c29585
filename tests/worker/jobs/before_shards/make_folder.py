"""Fill a data folder as the version before shards did, and write down the keys of its broker as commands.

``python make_folder.py FOLDER``, run in a checkout of commit a7b37bc. It made ``before_shards`` beside
``test_upgrade.py``; times are far apart from any retention so that nothing expires before a test looks.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path

from worker.broker.embedded import start_broker
from worker.jobs import JobProgress, JobQueue, JobRules, Lease, Price
from worker.storage.artifacts import Artifacts

SPEC = {
    "model": "celegans", "seed": 7, "count": 3, "frames": 2, "times": None, "grid": 16,
    "latent": {"kind": "sampled", "temperature": 1.0}, "rotation": "none", "formats": ["stl"], "fragments": "remove",
    "exact": "adaptive",
}  # fmt: skip
FOREVER_S = 3e9
RULES = JobRules(retention_s=FOREVER_S, record_s=FOREVER_S, idempotency_s=FOREVER_S)


def main() -> None:
    folder = Path(sys.argv[1])
    data, broker_folder = folder / "data", folder / "broker"
    artifacts = Artifacts(data)
    with start_broker(broker_folder) as broker:
        jobs = JobQueue.connect(broker.url, artifacts=artifacts, rules=RULES, wake_up=lambda _: None)
        jobs.admin.rebuild()

        def submit(name: str, **changes: object) -> str:
            request = {
                "kind": "generation", "spec": SPEC | {"seed": len(made) + 1}, "model_id": "celegans",
                "model_sha256": "c4" * 32, "digest": f"{name}-digest", "owner": "ada",
                "price": Price(bytes=1000, seconds=2.5),
            } | changes  # fmt: skip
            made[name] = jobs.submit(**request)[0].id
            return made[name]

        def claim(job_id: str) -> Lease:
            lease = jobs.leases.claim(job_id, worker="node-7:4121")
            assert lease is not None
            return lease

        made: dict[str, str] = {}
        for name in ("finished", "pinned"):
            lease = claim(submit(name))
            staged = artifacts.staging(lease.job_id, lease.token)
            (staged / "cell_0000").mkdir()
            content = f"solid {name}\n".encode()
            (staged / "cell_0000" / "frame_0000.stl").write_bytes(content)
            entry = {
                "name": "cell_0000/frame_0000.stl", "bytes": len(content),
                "sha256": hashlib.sha256(content).hexdigest(), "media_type": "model/stl",
            }  # fmt: skip
            manifest = {"format": "cytosynth-manifest/1", "files": [entry]}
            (staged / "manifest.json").write_text(json.dumps(manifest))
            artifacts.publish(lease.job_id, staged)
            warnings = [{"code": "implausible_cell", "message": "m"}]
            jobs.leases.finish(lease, content=f"{name}-content", warnings=warnings)
        jobs.pin(made["pinned"])
        jobs.leases.fail(claim(submit("failed")), code="empty_surface", message="there is no membrane")
        jobs.cancel(submit("canceled"))
        lease = claim(submit("running"))
        jobs.leases.renew(lease, progress=JobProgress(fraction=0.5, stage="frames", frame=3, frames=6, eta_s=1.0))
        submit("queued", idempotency_key="a-key", request_digest="asked")
        submit("later", owner="bob")
        jobs.submit(
            kind="generation", spec=SPEC | {"seed": 1}, model_id="celegans", model_sha256="c4" * 32,
            digest="finished-digest", owner="ada", idempotency_key="of-a-finished-one", request_digest="same",
        )  # fmt: skip
        jobs.timings.record(kind="generation", model_id="celegans", formats=["stl"], estimated_s=1.0, took_s=2.0)
        client = jobs._redis
        commands = []
        for key in sorted(client.scan_iter("*")):
            kind = client.type(key)
            if kind == "string":
                commands.append(["SET", key, client.get(key)])
            elif kind == "hash":
                commands.append(["HSET", key, *(text for pair in client.hgetall(key).items() for text in pair)])
            elif kind == "zset":
                rows = client.zrange(key, 0, -1, withscores=True)
                commands.append(["ZADD", key, *(text for member, score in rows for text in (repr(score), member))])
            elif kind == "stream":
                for entry, fields in client.xrange(key):
                    commands.append(["XADD", key, entry, *(text for pair in fields.items() for text in pair)])
            else:
                raise SystemExit(f"{key} is a {kind}")
        jobs.close()
    shutil.rmtree(broker_folder)
    (folder / "keys.json").write_text(json.dumps({"jobs": made, "commands": commands}, indent=1) + "\n")


main()
