//! How launches are grouped into submissions, on any kind of session.

use super::Launch;

/// Work per submission: like [`super::PlanOptions::max_launch_flops`], for the sum of many launches.
const SUBMISSION_FLOPS: u64 = 50_000_000_000;

/// Splits launches into runs of bounded work, so that none outlasts a driver's watchdog; returns the number of launches
/// in each. No launches make one empty run.
pub fn submissions(launches: &[Launch]) -> Vec<usize> {
    let mut groups = Vec::new();
    let (mut count, mut flops) = (0, 0);
    for launch in launches {
        if count > 0 && flops + launch.cost.flops > SUBMISSION_FLOPS {
            groups.push(std::mem::take(&mut count));
            flops = 0;
        }
        count += 1;
        flops += launch.cost.flops;
    }
    groups.push(count);
    groups
}
