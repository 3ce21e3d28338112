"""Everything that loading a base imports, in one import: the server that workers are forked from reads it once."""

from bench.model.quantization import quiet_bitsandbytes

quiet_bitsandbytes()

import peft  # noqa: E402, F401 (its import of bitsandbytes prints otherwise)
import transformers.modeling_utils  # noqa: E402
import transformers.models.auto.modeling_auto  # noqa: E402
import transformers.models.auto.tokenization_auto  # noqa: E402
import transformers.tokenization_utils_base  # noqa: E402, F401
