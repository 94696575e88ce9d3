//! The short forms of values: amounts, times, command lines, ports, mounts.
//! Each parser stands alone, takes any text and never panics.

mod amount;
mod mount;
mod port;
mod time;
mod words;

pub use amount::{AmountError, parse_amount};
pub(crate) use mount::is_windows_path;
pub use mount::{MountError, ShortMount, clean_path, is_clean, parse_mount};
pub use port::{PortError, ShortPort, parse_port_range, parse_ports};
pub use time::{TimeError, format_duration, parse_duration};
pub use words::{WordsError, split_words};
