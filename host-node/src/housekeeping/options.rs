//! The settings of housekeeping, with the kubelet's defaults.

use std::collections::BTreeMap;

use clap::Args;

use super::pressure::Threshold;
use super::signal::{Amount, Grace, amounts, graces};
use crate::error::{Error, Result};

/// Thresholds when none are given.
const HARD: &str = "memory.available<100Mi,nodefs.available<10%,nodefs.inodesFree<5%";
/// Added to them where images have a file system of their own.
const HARD_IMAGES: &str = ",imagefs.available<15%,imagefs.inodesFree<5%";

/// Logs, images, pressure.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Size at which a container's log is rotated, as 10Mi.
    #[arg(long, default_value = "10Mi", value_parser = bytes)]
    pub container_log_max_size: u64,
    /// Files of one container's log at most, the one being written included.
    #[arg(long, default_value_t = 5, value_parser = at_least_two)]
    pub container_log_max_files: usize,
    /// How often logs are looked at.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(10..))]
    pub container_log_monitor_ms: u64,
    /// Percentage of the images' file system in use at which unused images are removed; 100 switches this off.
    #[arg(long, default_value_t = 85, value_parser = clap::value_parser!(u64).range(0..=100))]
    pub image_gc_high: u64,
    /// Percentage down to which they are removed.
    #[arg(long, default_value_t = 80, value_parser = clap::value_parser!(u64).range(0..=100))]
    pub image_gc_low: u64,
    /// Seconds that an image stays after it was first seen, whatever happens.
    #[arg(long, default_value_t = 120)]
    pub image_gc_min_age_s: u64,
    /// Seconds after its last use at which an image is removed even without need; 0: never.
    #[arg(long, default_value_t = 0)]
    pub image_gc_max_age_s: u64,
    /// How often images and remains are looked at.
    #[arg(long, default_value_t = 300_000, value_parser = clap::value_parser!(u64).range(10..))]
    pub image_gc_period_ms: u64,
    /// An image that is never removed. May be repeated.
    #[arg(long = "pinned-image", value_name = "IMAGE")]
    pub pinned_images: Vec<String>,
    /// Thresholds at which pods are evicted at once, SIGNAL<AMOUNT,...; empty: none. Default: memory.available<100Mi, nodefs.available<10%,
    /// nodefs.inodesFree<5%, and where images have a file system of their own imagefs.available<15%, imagefs.inodesFree<5%.
    #[arg(long)]
    pub eviction_hard: Option<String>,
    /// Thresholds at which pods are evicted after a grace period, SIGNAL<AMOUNT,...
    #[arg(long, default_value = "")]
    pub eviction_soft: String,
    /// How long a soft threshold may be passed, SIGNAL=DURATION,...; one for each.
    #[arg(long, default_value = "")]
    pub eviction_soft_grace_period: String,
    /// Most seconds that a pod gets to end when a soft threshold was passed.
    #[arg(long, default_value_t = 0)]
    pub eviction_max_pod_grace_period_s: u32,
    /// What must be regained beyond a threshold once it was passed, SIGNAL=AMOUNT,...
    #[arg(long, default_value = "")]
    pub eviction_minimum_reclaim: String,
    /// Seconds that a pressure condition stays after its last sighting.
    #[arg(long, default_value_t = 300)]
    pub eviction_pressure_transition_period_s: u32,
    /// How often pressure is looked for.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(10..))]
    pub eviction_monitor_ms: u64,
}

impl Default for Options {
    fn default() -> Self {
        #[derive(clap::Parser)]
        struct Nothing {
            #[command(flatten)]
            options: Options,
        }
        <Nothing as clap::Parser>::parse_from(["host-node"]).options
    }
}

fn bytes(text: &str) -> Result<u64, String> {
    match text.parse::<Amount>() {
        Ok(Amount::Whole(bytes)) if bytes > 0 => Ok(bytes),
        _ => Err("a positive quantity such as 10Mi".into()),
    }
}

fn at_least_two(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|files| *files >= 2).ok_or_else(|| "a number of at least 2".into())
}

impl Options {
    /// All thresholds. `own_imagefs`: images have a file system of their own.
    ///
    /// # Errors
    /// A signal that is unknown, an amount that is none, a soft threshold without a grace period.
    pub fn thresholds(&self, own_imagefs: bool) -> Result<Vec<Threshold>> {
        let usual = || format!("{HARD}{}", if own_imagefs { HARD_IMAGES } else { "" });
        let hard = amounts(&self.eviction_hard.clone().unwrap_or_else(usual), '<')?;
        let soft = amounts(&self.eviction_soft, '<')?;
        let grace: BTreeMap<_, Grace> = graces(&self.eviction_soft_grace_period)?;
        let reclaim = amounts(&self.eviction_minimum_reclaim, '=')?;
        let mut list = Vec::new();
        for (signal, amount) in soft {
            let wait = grace
                .get(&signal)
                .ok_or_else(|| Error::invalid("--eviction-soft", format!("{} has no --eviction-soft-grace-period", signal.name())))?;
            list.push(Threshold { signal, amount, grace_seconds: Some(wait.0), reclaim: reclaim.get(&signal).cloned() });
        }
        let hard = hard.into_iter().map(|(signal, amount)| Threshold {
            signal,
            amount,
            grace_seconds: None,
            reclaim: reclaim.get(&signal).cloned(),
        });
        list.extend(hard);
        Ok(list)
    }

    /// Refuses what contradicts itself.
    pub fn check(&self) -> Result<()> {
        if self.image_gc_low > self.image_gc_high {
            return Err(Error::invalid("--image-gc-low", "more than --image-gc-high"));
        }
        self.thresholds(true).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn check(words: &[&str], expected: Option<usize>) {
        let line = Line::try_parse_from([&["x"], words].concat()).ok().filter(|line| line.options.check().is_ok());
        assert_eq!(line.and_then(|line| line.options.thresholds(false).ok()).map(|list| list.len()), expected, "{words:?}");
    }

    #[test]
    fn a_nodes_line_takes_them() {
        let words =
            "host-node --name n --kernel k:1 --ca a --cert b --key c --state-dir / --run-dir / --image-gc-high 90 --image-gc-low 70";
        let node = crate::options::Line::try_parse_from(words.split(' ')).ok().and_then(crate::options::Line::into_node);
        let given =
            node.map(|node| (node.housekeeping.image_gc_high, node.housekeeping.image_gc_low, node.housekeeping.container_log_max_files));
        assert_eq!(given, Some((90, 70, 5)));
    }

    #[test]
    fn settings_are_checked_before_anything_runs() {
        check(&[], Some(3));
        check(&["--eviction-hard", ""], Some(0));
        check(&["--eviction-soft", "memory.available<1Gi", "--eviction-soft-grace-period", "memory.available=30s"], Some(4));
        check(&["--eviction-soft", "memory.available<1Gi"], None);
        check(&["--eviction-hard", "memory.free<1"], None);
        check(&["--image-gc-low", "90"], None);
        check(&["--container-log-max-files", "1"], None);
        check(&["--container-log-max-size", "0"], None);
    }
}
