"""Copy a trained generator into the repository as a starter: weights, tokenizer, logs, where it comes from.

    python tools/make_starter.py runs/journey starters/journey

The starter can be made again with the recipe that `starter.json` names, as it was at the revision named
there, on tables with its data fingerprint.
"""

import json
import shutil
import sys
from pathlib import Path

LARGEST_MB = 16
SYSTEM = "direct_il_sft"


def main(run: Path, starter: Path) -> None:
    """Write the starter; raises SystemExit when it would be too large for the repository."""
    model = run / "models" / SYSTEM
    size = (model / "model.safetensors").stat().st_size / 1e6
    if size > LARGEST_MB:
        raise SystemExit(f"{model} has {size:.1f} MB, a starter at most {LARGEST_MB}")
    shutil.rmtree(starter, ignore_errors=True)
    starter.mkdir(parents=True)
    for name in ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json"):
        shutil.copy2(model / name, starter)
    shutil.copy2(model / "tokenizer_config.json", starter)
    for phase in ("imitation", "."):
        log = model / "training" / phase / "log.jsonl"
        if log.exists():
            shutil.copy2(log, starter / f"log-{'sft' if phase == '.' else phase}.jsonl")
    stages = json.loads((run / "stages.json").read_text(encoding="utf-8"))
    origin = {
        "recipe": f"recipes/{run.name}.yaml",
        "data_fingerprint": stages["prepare"]["result"]["fingerprint"],
        "trained": stages[f"sft:{SYSTEM}"]["finished"],
        "training": stages[f"sft:{SYSTEM}"]["result"],
        "versions": json.loads((run / "versions.json").read_text(encoding="utf-8")),
    }
    (starter / "starter.json").write_text(json.dumps(origin, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
