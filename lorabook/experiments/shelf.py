"""Where models and data sets are taken from: the Hub at a pinned revision, or a folder with the same layout.

A data set's files are parquet or JSON, one a split, under the names that they have on the Hub.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorabook import checks
from lorabook.experiments import ExperimentError


@dataclass(frozen=True)
class Shelf:
    """The Hub, or a ``folder`` that holds ``<repository>/<file>``."""

    folder: Path | None = None

    def model(self, repository: str, revision: str | None) -> tuple[str, dict]:
        """What ``from_pretrained`` wants: a name, and options.

        Raises:
            ExperimentError: the folder does not hold the model.
        """
        if self.folder is None:
            return repository, {"revision": revision}
        place = self.folder / repository
        if not (place / "config.json").is_file():
            raise ExperimentError(f"The model {repository} is not in {self.folder}: it has no config.json there.")
        return str(place), {}

    def pretrained(self, kind: Any, repository: str, revision: str | None, **options: Any) -> Any:
        """``kind.from_pretrained`` at the revision.

        Raises:
            ExperimentError: no access, no such revision, no network, no room on the disk.
        """
        name, where = self.model(repository, revision)
        try:
            return kind.from_pretrained(name, **where, **options)
        except (OSError, ValueError) as error:
            raise _missing(repository, revision, error) from None

    def reach(self, repository: str, revision: str | None) -> None:
        """Whether a model can be had, by its configuration alone; raises as :meth:`pretrained`."""
        if self.folder is not None:
            self.model(repository, revision)
            return
        hub = checks.package("huggingface_hub", "experiments")
        try:
            hub.hf_hub_download(repository, "config.json", revision=revision)
        except (OSError, ValueError) as error:
            raise _missing(repository, revision, error) from None

    def rows(self, repository: str, revision: str | None, name: str) -> tuple[list[dict], str]:
        """The rows of one file of a data set in their order, and its SHA-256.

        Raises:
            ExperimentError: as :meth:`pretrained`, or the file is no parquet or JSON.
            ImportError: pyarrow is not installed.
        """
        checks.package("pyarrow", "experiments")
        import pyarrow.parquet

        place = self._file(repository, revision, name)
        try:
            if place.suffix == ".json":
                rows = json.loads(place.read_text(encoding="utf-8"))
            elif place.suffix == ".jsonl":
                rows = [json.loads(line) for line in place.read_text(encoding="utf-8").split("\n") if line]
            else:
                rows = pyarrow.parquet.read_table(place).to_pylist()
        except (OSError, ValueError) as error:  # of which pyarrow's is one
            raise ExperimentError(f"{repository}, {name}: {' '.join(str(error).split())}.") from None
        return rows, hashlib.sha256(place.read_bytes()).hexdigest()

    def _file(self, repository: str, revision: str | None, name: str) -> Path:
        if self.folder is not None:
            place = self.folder / repository / name
            if not place.is_file():
                raise ExperimentError(f"The data set {repository} has no {name} in {self.folder}.")
            return place
        hub = checks.package("huggingface_hub", "experiments")
        try:
            return Path(hub.hf_hub_download(repository, name, repo_type="dataset", revision=revision))
        except (OSError, ValueError) as error:
            raise _missing(repository, revision, error) from None


def cache() -> Path:
    """Where the Hub's client keeps what it has downloaded."""
    return Path(checks.package("huggingface_hub", "experiments").constants.HF_HUB_CACHE)


def quiet() -> None:
    """No bars and no reports of transformers; errors are told."""
    transformers = checks.package("transformers", "experiments")
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def _missing(repository: str, revision: str | None, error: Exception) -> ExperimentError:
    """Why something could not be had, in one sentence."""
    names = {one.__name__ for cause in _causes(error) for one in type(cause).__mro__}
    text = " ".join(str(error).split())
    if "GatedRepoError" in names or "gated repo" in text:
        return ExperimentError(
            f"{repository} is given out on request: ask on its page on the Hub, then log in with `hf auth login`."
        )
    if "RevisionNotFoundError" in names or "is not a valid git identifier" in text:
        return ExperimentError(f"{repository} has no revision {str(revision)[:10]} any more.")
    if "RepositoryNotFoundError" in names or "is not a valid model identifier" in text:
        return ExperimentError(f"{repository} is not on the Hub, or not for you.")
    if names & {"LocalEntryNotFoundError", "ConnectError", "OfflineModeIsEnabled"} or "connect to" in text:
        return ExperimentError(f"{repository} is not on this machine, and the Hub cannot be reached.")
    return ExperimentError(f"{repository} at {str(revision)[:10]} cannot be read: {text[:200]}")


def _causes(error: BaseException | None):
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
