"""The base of every typed block of the run file."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A frozen block of settings: unknown keys, NaN and infinity are refused.

    Each room defines its own block beside the code that reads it and validates it there;
    `hbt_dist.config` puts the blocks together into the run file.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)
