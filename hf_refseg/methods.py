"""The methods, each known to transformers and public here by its one line, which imports its configuration.

The model of `configuration_<method>.py` is that of `modeling_<method>.py`; it is imported when it is asked for.
"""

from .modeling.configuration_btmae import *
from .modeling.configuration_lavt import *
from .modeling.configuration_m3att import *
from .modeling.configuration_magnet import *
from .modeling.configuration_risam import *
from .modeling.configuration_unified_lavt import *
from .modeling.configuration_video_lavt import *
