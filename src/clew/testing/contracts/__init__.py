"""What every implementation of a port must pass: subclass a suite in a test module, and give it the fixture it asks for."""

import pkgutil

import pytest

# So that a failing assertion of a suite shows its values, as one in a test module would.
pytest.register_assert_rewrite(*(f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__)))
