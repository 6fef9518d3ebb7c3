//! Named rewrites Graph → Graph.
