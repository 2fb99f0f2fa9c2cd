"""A finished workspace on a source of one's own, which tests copy."""

from __future__ import annotations

from pathlib import Path

import pytest
from workspaces import Own, build_run, succeed, write_source


@pytest.fixture(scope="session")
def own(chain_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Own:
    root = tmp_path_factory.mktemp("own")
    data, space = write_source(root / "alice"), root / "w"
    words = build_run(chain_model, data, space)
    succeed(*words)
    return Own(chain_model, data, space, words)
