"""Values that a user's file may hold, made up by hypothesis, and what an error about them must look like."""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from processing.errors import UserError

few = settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=12)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner)
)


def check_message(error: UserError) -> str:
    """The sentence of an error, checked to be one for people."""
    text = str(error)
    assert text.strip()
    assert "Traceback" not in text
    assert "\0" not in text
    return text
