//! How much memory a run can still get from the system.

use std::fs;

use crate::error::ExecError;
use crate::plan::{Held, Plan};

/// Less is not looked at: a system that lacks so little says so by itself.
const SMALL: usize = 64 << 20;

impl Plan {
    /// Whether the results of a run fit into the memory that the system can give now, as far as
    /// shapes are known before it. Every run asks this first.
    ///
    /// # Errors
    /// [`ExecError::Memory`].
    pub fn fits(&self) -> Result<(), ExecError> {
        has_room(self.needs())
    }

    /// Bytes of the results that are alive at one time, and of the largest one that follows from
    /// constants and is not computed yet.
    fn needs(&self) -> usize {
        let later = self.regs.iter().zip(&self.types).map(|(held, ty)| match held {
            Held::Lazy { node, .. } => {
                let is_done = self.lazies.get(*node).is_some_and(|it| it.results.get().is_some());
                if is_done { 0 } else { crate::facts::bytes(ty) }
            }
            Held::Live | Held::Fixed(_) => 0,
        });
        self.peak.saturating_add(later.max().unwrap_or(0))
    }
}

/// Whether the system can give so many bytes now.
///
/// # Errors
/// [`ExecError::Memory`].
pub fn has_room(needs: usize) -> Result<(), ExecError> {
    match (needs >= SMALL).then(room).flatten() {
        Some(room) if room < needs as u64 => Err(ExecError::Memory { needs, room }),
        _ => Ok(()),
    }
}

/// Bytes that the system can give: free or free to be taken, with swap, within the limit of the
/// address space of the process. `None` where the system does not tell.
pub fn room() -> Option<u64> {
    let read = |name: &str| fs::read_to_string(name).ok();
    let free = read("/proc/meminfo").and_then(|it| free(&it));
    let left = || left(&read("/proc/self/limits")?, &read("/proc/self/status")?);
    [free, left()].into_iter().flatten().min()
}

/// From `/proc/meminfo`.
fn free(text: &str) -> Option<u64> {
    Some(kib(text, "MemAvailable:")?.saturating_add(kib(text, "SwapFree:").unwrap_or(0)))
}

/// From `/proc/self/limits` and `/proc/self/status`: address space that is not used yet. `None`
/// without a limit.
fn left(limits: &str, status: &str) -> Option<u64> {
    let line = limits.lines().find_map(|it| it.strip_prefix("Max address space"))?;
    let limit: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(limit.saturating_sub(kib(status, "VmSize:")?))
}

/// Bytes of a line with so many `kB`.
fn kib(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|it| it.strip_prefix(name))?;
    rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_tells_what_is_left() {
        let text = "MemTotal: 900 kB\nMemAvailable:  70 kB\nSwapFree:   3 kB\n";
        assert_eq!(free(text), Some(73 << 10));
        assert_eq!(free("MemAvailable: 7 kB\n"), Some(7 << 10));
        assert_eq!(free("MemTotal: 7 kB\n"), None);
        let limits =
            |it: &str| format!("Max cpu time  unlimited\nMax address space  {it}  {it}  bytes\n");
        let status = "Name: x\nVmSize:\t  2 kB\n";
        assert_eq!(left(&limits("4096"), status), Some(2048));
        assert_eq!(left(&limits("1024"), status), Some(0));
        assert_eq!(left(&limits("unlimited"), status), None);
    }
}
