"""The dialects that write each parameter of a call between tags."""

from api.reading.dialects.tags.deepseek_v32 import DEEPSEEK_V4, DEEPSEEK_V32
from api.reading.dialects.tags.glm import GLM, GLM47, HUNYUAN3
from api.reading.dialects.tags.invokes import MINICPM5, MINIMAX_M2, MINIMAX_M3, MUSE
from api.reading.dialects.tags.kimi_k3 import KIMI_K3
from api.reading.dialects.tags.xml_functions import QWEN3_XML, SEED_OSS

# The first that detects a template is chosen.
TAG_FORMS = (
    *(DEEPSEEK_V32, DEEPSEEK_V4, SEED_OSS, QWEN3_XML, HUNYUAN3, GLM, GLM47),
    *(MINIMAX_M3, MINIMAX_M2, MUSE, KIMI_K3, MINICPM5),
)
