"""The methods, and encoders that come with them: each is known to transformers and public here by its one line."""

from .modeling.modeling_btmae import *
from .modeling.modeling_lavt import *
from .modeling.modeling_m3att import *
from .modeling.modeling_magnet import *
from .modeling.modeling_risam import *
from .modeling.modeling_unified_lavt import *
from .modeling.modeling_video_lavt import *
from .modeling.recurrent_text_refseg import *
from .modeling.video_swin_refseg import *
