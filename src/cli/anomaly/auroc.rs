//! How well a score tells two kinds apart.

/// The area under the receiver operating characteristic: the share of pairs, one of each kind, of which the anomalous
/// one has the larger score, where equal ones count half (Hanley & McNeil 1982). ½ is chance, 1 is never wrong. `None`
/// without pairs.
pub fn auroc(mut scored: Vec<(f64, bool)>) -> Option<f64> {
    let anomalous = scored.iter().filter(|(_, anomalous)| *anomalous).count();
    let pairs = anomalous as f64 * (scored.len() - anomalous) as f64;
    if pairs == 0.0 {
        return None;
    }
    scored.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut below, mut won) = (0.0, 0.0);
    for equal in scored.chunk_by(|a, b| a.0 == b.0) {
        let positives = equal.iter().filter(|(_, anomalous)| *anomalous).count() as f64;
        let negatives = equal.len() as f64 - positives;
        won += positives * (below + negatives / 2.0);
        below += negatives;
    }
    Some(won / pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_share_of_pairs_in_order() {
        let of = |normal: &[f64], anomalous: &[f64]| {
            let normal = normal.iter().map(|score| (*score, false));
            auroc(normal.chain(anomalous.iter().map(|score| (*score, true))).collect())
        };
        assert_eq!(of(&[1.0, 2.0], &[3.0, 4.0]), Some(1.0));
        assert_eq!(of(&[3.0, 4.0], &[1.0]), Some(0.0));
        // scikit-learn: roc_auc_score([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
        assert_eq!(of(&[0.1, 0.4], &[0.35, 0.8]), Some(0.75));
        assert_eq!(of(&[0.5, 0.5], &[0.5]), Some(0.5));
        assert_eq!((of(&[], &[1.0]), of(&[1.0], &[])), (None, None));
    }
}
