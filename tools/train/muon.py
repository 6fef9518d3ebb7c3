"""Muon (Jordan et al. 2024): momentum whose matrix is made orthogonal before it is applied, so that every direction of
a weight learns at the same pace.  For the inner matrices and convolutions; vectors and embeddings stay with AdamW."""

import torch


def orthogonalised(matrix, rounds=5):
    """Roughly the nearest semi-orthogonal matrix: each singular value is pushed to 1 by an odd quintic, `rounds` times.

    The coefficients are those of the paper: they lift small singular values fastest and leave them between 0.7 and 1.2.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrix.size(0) > matrix.size(1)
    x = (matrix.T if tall else matrix).bfloat16()
    x = x / (x.norm() + 1e-7)
    for _ in range(rounds):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if tall else x).to(matrix.dtype)


class Muon(torch.optim.Optimizer):
    """A convolution's weight counts as the matrix [out, in * k * k].  The update is scaled to AdamW's root mean square
    (about 0.2, Liu et al. 2025), so one learning rate suits both."""

    def __init__(self, parameters, lr=1e-3, weight_decay=0.0, momentum=0.95):
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                average = self.state[p].setdefault("average", torch.zeros_like(p))
                average.lerp_(p.grad, 1 - group["momentum"])
                ahead = p.grad.lerp(average, group["momentum"])  # Nesterov
                matrix = ahead.reshape(p.size(0), -1)
                update = orthogonalised(matrix) * (0.2 * max(matrix.shape) ** 0.5)
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_(update.view(p.shape), alpha=group["lr"])
