//! A run that is stopped from outside.

use qcc_pass::Cancel;

/// A flag that the first Ctrl-C sets, or the first request of the system to end. The second one ends
/// the process at once.
pub(super) fn cancel() -> Cancel {
    let cancel = Cancel::default();
    let flag = cancel.clone();
    // Without a handler the first one would end it. Where a parent ignores one of the signals, as
    // `nohup` does, there is none: else that signal would be heard.
    let _ = ctrlc::try_set_handler(move || {
        if flag.is_set() {
            std::process::exit(130);
        }
        flag.set();
    });
    cancel
}
