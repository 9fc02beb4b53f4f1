"""The names for files of what a client sent; they need torch, safetensors and lazy-loader alone."""

from orchestrator.library.files import load_gradient as load_gradient
from orchestrator.library.files import load_update as load_update
from orchestrator.library.files import save_update as save_update
