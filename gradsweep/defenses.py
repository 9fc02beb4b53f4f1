"""The defenses, each a frozen dataclass whose fields are its settings."""

from defenses.compression.compression import Prune as Prune
from defenses.compression.compression import Quantise as Quantise
from defenses.compression.compression import SignOnly as SignOnly
from defenses.compression.soteria import Soteria as Soteria
from defenses.dp.central import DPCentral as DPCentral
from defenses.dp.distributed import DPDistributed as DPDistributed
from defenses.dp.local import DPUpdate as DPUpdate
from defenses.dp.sgd import DPSGD as DPSGD
from defenses.he.encrypted_noise import EncryptedNoise as EncryptedNoise
from defenses.he.encryption import CKKS as CKKS
from defenses.he.encryption import Paillier as Paillier
from defenses.inputs.ats import ATS as ATS
from defenses.inputs.mixing import InstaHide as InstaHide
from defenses.inputs.mixing import MixUp as MixUp
from defenses.inputs.precode import Precode as Precode
from defenses.masking.masking import Masking as Masking
from defenses.mechanism.base import Mechanism as Mechanism
from defenses.mechanism.noise import ClipOnly as ClipOnly
from defenses.mechanism.noise import NoiseOnly as NoiseOnly
from defenses.secure.selective import Selective as Selective
