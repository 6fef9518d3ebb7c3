"""How good are the clothes of ddpm-fashion-32?  A classifier judges 1000 generated pictures, a hundred of each class.

    python tools/quality/measure_fashion.py                                    # pictures from diffusers
    python tools/quality/measure_fashion.py --unmist target/release/unmist     # pictures from unmist

Prints the share of pictures that the classifier puts into the class asked for, overall and for each class, and the
Fréchet distance between the classifier's features of the pictures and of the 10 000 real test pictures. For comparison,
the same two figures are printed for 1000 real training pictures.
"""

import argparse

import torch

import fashion_classifier
import pictures


def frechet_distance(a, b):
    """|mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)) for features a, b of shape [N, D] (Heusel et al. 2017)."""
    a, b = a.double(), b.double()
    cov_a, cov_b = torch.cov(a.T), torch.cov(b.T)
    # The eigenvalues of A B are those of a product of two positive semi-definite matrices: real and non-negative.
    root_trace = torch.linalg.eigvals(cov_a @ cov_b).real.clamp(min=0).sqrt().sum()
    return ((a.mean(0) - b.mean(0)).square().sum() + cov_a.trace() + cov_b.trace() - 2 * root_trace).item()


def generate(options, labels):
    if options.images:
        return pictures.from_file(options.images)
    settings = (options.seed, options.steps, options.guidance_scale, options.scheduler)
    if options.unmist:
        return pictures.fashion_with_unmist(options.unmist, options.model, labels, *settings)
    return pictures.fashion_with_diffusers(options.model, labels, *settings, options.precision)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="weights/ddpm-fashion-32")
    parser.add_argument("--count", type=int, default=1000, help="pictures in total, a tenth of them of each class")
    parser.add_argument("--scheduler", choices=["ddim", "ddpm"], default="ddim")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guidance-scale", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", choices=["f32", "bf16"], default="f32", help="of diffusers' U-Net")
    parser.add_argument("--unmist", help="take the pictures from this binary instead of diffusers")
    parser.add_argument("--images", help="judge this safetensors file (tensor `images`, classes in order) instead")
    options = parser.parse_args()

    labels = torch.arange(10).repeat_interleave(options.count // 10)
    judge = fashion_classifier.load()
    real, real_labels = fashion_classifier.load_split("t10k")
    real_features = fashion_classifier.in_batches(judge.features, real)

    def report(name, images, wanted):
        right = fashion_classifier.in_batches(judge, images).argmax(1) == wanted
        features = fashion_classifier.in_batches(judge.features, images)
        distance = frechet_distance(features, real_features)
        print(f"{name}: class right {right.float().mean():.1%}, Fréchet distance {distance:.3f}")
        return right

    train, train_labels = fashion_classifier.load_split("train")
    report("1000 real training pictures", train[:1000], train_labels[:1000])
    report("10 000 real test pictures  ", real, real_labels)
    right = report(f"{len(labels)} generated pictures   ", generate(options, labels), labels)
    for label, name in enumerate(fashion_classifier.CLASSES):
        print(f"  {name:<10} {right[labels == label].float().mean():.1%}")


if __name__ == "__main__":
    main()
