"""What an attack is, and what it returns."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "certificate": ["CERTIFICATE_LIMITS", "Certificate", "Verdict", "least_psnr", "undetermined"],
        "conjugate_gradients": ["Operator", "solve_definite"],
        "evaluations": ["ONE_BACKWARD", "Evaluations", "reporter", "with_cost_of"],
        "least_squares": ["LeastSquares", "solve_least_squares"],
        "reading": ["Estimate", "Reading"],
        "types": ["Attack", "AttackFailed", "Outcome", "Progress", "Reconstruction"],
    },
)
