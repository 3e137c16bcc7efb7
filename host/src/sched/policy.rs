//! The scheduling parameters that each lane's threads ask of the kernel. Lower ones need no
//! privilege; higher ones are tried.

use std::fmt;
use std::io;

use super::Lane;

/// How far the niceness of a fast thread is below the others', if the system allows that.
const FAST_NICENESS: i32 = -10;
/// How far the niceness of a rescue worker is above a fast thread's. Each step changes a
/// thread's weight by about a quarter.
const RESCUE_BEHIND: i32 = 18;
/// The slice of a fast thread, after which the kernel looks for another thread, in nanoseconds. A
/// shorter slice lets the thread run sooner after it wakes. Needs Linux 6.12; earlier kernels
/// ignore it.
const FAST_SLICE_NS: u64 = 100_000;

/// The scheduling parameters that the kernel granted a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SchedParams {
    /// Whether other threads that wake run at once, before this one (`SCHED_IDLE`).
    pub yields_at_once: bool,
    /// The thread's niceness.
    pub niceness: i32,
    /// Whether the thread's slice is a short one.
    pub short_slice: bool,
}

impl fmt::Display for SchedParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.yields_at_once {
            return f.write_str("runs when no other thread wants to");
        }
        write!(f, "niceness {}", self.niceness)?;
        f.write_str(if self.short_slice { ", short slices" } else { "" })
    }
}

/// Sets the calling thread up for its lane, and returns what the thread has now. A parameter that
/// the system does not allow stays as it was.
#[must_use]
pub fn take(lane: Lane) -> SchedParams {
    let own = rustix::process::getpriority_process(None).unwrap_or(0);
    let as_it_was = SchedParams { yields_at_once: false, niceness: own, short_slice: false };
    match lane {
        Lane::Standard => as_it_was,
        Lane::Idle => match set(libc::SCHED_IDLE, own, 0) {
            Ok(()) => SchedParams { yields_at_once: true, ..as_it_was },
            Err(_) => as_it_was,
        },
        Lane::Fast => [own + FAST_NICENESS, own]
            .into_iter()
            .find(|&niceness| set(libc::SCHED_OTHER, niceness, FAST_SLICE_NS).is_ok())
            .map_or(as_it_was, |niceness| SchedParams { niceness, short_slice: true, ..as_it_was }),
    }
}

/// Sets the calling thread up as a rescue worker of the idle lane.
///
/// Where a rescue worker competes with a fast thread, it gets a fiftieth of that thread's CPU time.
/// That is little, but enough for progress.
#[must_use]
pub fn take_rescue(fast: SchedParams) -> SchedParams {
    let own = rustix::process::getpriority_process(None).unwrap_or(0);
    let niceness = (fast.niceness + RESCUE_BEHIND).clamp(own, 19);
    let set = set(libc::SCHED_BATCH, niceness, 0).is_ok();
    SchedParams {
        yields_at_once: false,
        niceness: if set { niceness } else { own },
        short_slice: false,
    }
}

/// The kernel's `sched_attr`, in its first version.
#[repr(C)]
struct Attributes {
    size: u32,
    policy: u32,
    flags: u64,
    niceness: i32,
    priority: u32,
    slice_ns: u64,
    deadline_ns: u64,
    period_ns: u64,
}

#[allow(unsafe_code)]
fn set(policy: i32, niceness: i32, slice_ns: u64) -> io::Result<()> {
    let attributes = Attributes {
        size: size_of::<Attributes>() as u32,
        policy: policy.unsigned_abs(),
        flags: 0,
        niceness,
        priority: 0,
        slice_ns,
        deadline_ns: 0,
        period_ns: 0,
    };
    // SAFETY: the call reads `size` bytes from the pointer, which are those of `attributes`, and
    // keeps nothing. It acts on the calling thread (0) and touches no memory of the process.
    let outcome = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_policy_needs_no_privilege() {
        let seen = std::thread::spawn(|| {
            let params = take(Lane::Idle);
            let stat =
                std::fs::read_to_string("/proc/thread-self/stat").expect("the thread's state");
            let fields: Vec<_> =
                stat.rsplit(')').next().expect("fields").split_whitespace().collect();
            // The 41st field is the policy; 5 is SCHED_IDLE.
            (params, fields[38].to_owned())
        });
        let (params, policy) = seen.join().expect("it ran");
        assert!(params.yields_at_once);
        assert_eq!(policy, "5");
    }

    #[test]
    fn fast_thread_is_never_behind_standard_one() {
        let threads =
            [Lane::Fast, Lane::Standard].map(|lane| std::thread::spawn(move || take(lane)));
        let [fast, standard] = threads.map(|thread| thread.join().expect("it ran"));
        assert!(fast.niceness <= standard.niceness && !fast.yields_at_once, "{fast} {standard}");
    }
}
