"""Where the tests find what they read."""

import os
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
EXAMPLES = CHECKOUT / "examples"
TESTS = CHECKOUT / "tests"
SUPPORT = TESTS / "support"
FIXTURES = TESTS / "fixtures"
# Small real data, where they are at hand.
REAL_DATA = Path(os.environ.get("HF_REFSEG_REAL_DATA", CHECKOUT.parent / "shared" / "data"))
