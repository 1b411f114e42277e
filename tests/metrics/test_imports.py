"""metrics/ is light: it needs neither torch nor the models."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "transformers", "datasets", "evaluate", "modeling")


def test_metrics_imports_neither_torch_nor_modeling():
    files = [file.relative_to(ROOT).with_suffix("") for file in (ROOT / "metrics").rglob("*.py")]
    modules = {".".join(file.parts).removesuffix(".__init__") for file in files}
    modules.remove("metrics.squad_v2.squad_v2")  # evaluate loads it, and brings torch with it
    modules = {module for module in modules if not module.startswith("metrics.audit")}  # which reads data sets
    assert {"metrics.report", "metrics.compare", "metrics.squad_v2.scoring"} <= modules
    script = f"import sys, {', '.join(sorted(modules))}; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_audit_needs_no_model():
    script = f"import sys, metrics.audit.__main__; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() in ("[]", "['datasets']")
