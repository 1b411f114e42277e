"""The Streamlit app: questions about a medical image, answered in the browser.

    python -m streamlit run spaces_app/app.py

`MODEL_ID` names the model, a folder or a Hub id, `COMPARE_MODEL_ID` a second one that gets the same questions,
`MODEL_DTYPE` float32, float16 or bfloat16, by default what the model's `Predictor` takes, and `TRUSTED_PROXIES` the
number of proxies in front of it (`spaces_app.limits`).

`page.py` beside it is the script of the page. This is the server around it: it bounds visits and what is uploaded,
and forgets a visit whose page was closed.
"""

import sys
from pathlib import Path

from starlette.middleware import Middleware
from streamlit.starlette import App

from processing.errors import UserError
from spaces_app.limits import trusted_proxies
from spaces_app.models import LOADING
from spaces_app.uploads import UploadLimit
from spaces_app.visits import VisitLimit, forget_visits, held

try:
    trusted_proxies()  # a wrong value ends the start, not a visit
except UserError as error:
    sys.exit(f"error: {error}")
LOADING.start()  # before the first visitor comes
limits = [Middleware(VisitLimit), Middleware(UploadLimit, held=held)]
app = App(Path(__file__).with_name("page.py"), lifespan=forget_visits, middleware=limits)
