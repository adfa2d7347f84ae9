"""What settings are made of: closed models, and the kinds of names and numbers in them."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$", description="lower-case letters, digits and hyphens")]
MethodName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]*$", description="lower-case letters, digits and _")]
LARGEST = 2**31 - 1
"""No number of steps, width or seed is larger: curves keep steps in 32 bits, and nothing needs more."""
Int = Annotated[int, Field(strict=True)]
Float = Annotated[float, Field(strict=True)]
"""Numbers, as which neither `true` nor "1" passes."""
Positive = Annotated[Int, Field(gt=0, le=LARGEST)]
NonNegative = Annotated[Int, Field(ge=0, le=LARGEST)]
Layers = Annotated[Int, Field(gt=0, le=1000)]
"""How deep a network is; none that anybody trains is deeper."""
Log2LR = Annotated[Int, Field(ge=-1022, le=1023, description="log2 of a learning rate that a float64 can hold")]
Beta = Annotated[Float, Field(ge=0, lt=1)]
Coefficient = Annotated[Float, Field(ge=0)]


class Closed(BaseModel):
    """A frozen model that refuses unknown keys, so that a misspelt setting is an error and not a default.

    No number is infinite.
    """

    # Built on first use: the Snakefile, and so every job, imports this.
    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True, defer_build=True
    )
