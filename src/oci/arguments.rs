//! Options and positional arguments, as the runtimes before us take them: global
//! options first, those of the command before or after the container's id, with
//! one dash or two, values after `=` or in the next word.

use super::error::OciError;

/// An option: its name, a one-letter form, whether it takes a value.
type Known = (&'static str, char, bool);

const NONE: char = '\0';

/// Options before the command.
const GLOBAL: &[Known] = &[
    ("root", NONE, true),
    ("log", NONE, true),
    ("log-format", NONE, true),
    ("log-level", NONE, true),
    ("cgroup-manager", NONE, true),
    ("rootless", NONE, true),
    ("criu", NONE, true),
    ("debug", NONE, false),
    ("systemd-cgroup", NONE, false),
    ("help", 'h', false),
    ("version", 'v', false),
];

const HELP: Known = ("help", 'h', false);

/// A command: name, options, positional arguments as help shows them.
type Command = (&'static str, &'static [Known], &'static str);

const CREATE: &[Known] = &[
    ("bundle", 'b', true),
    ("config", 'f', true),
    ("console-socket", NONE, true),
    ("pidfd-socket", NONE, true),
    ("pid-file", NONE, true),
    ("no-pivot", NONE, false),
    ("no-new-keyring", NONE, false),
    ("preserve-fds", NONE, true),
    HELP,
];

const RUN: &[Known] = &[
    ("bundle", 'b', true),
    ("config", 'f', true),
    ("console-socket", NONE, true),
    ("pidfd-socket", NONE, true),
    ("pid-file", NONE, true),
    ("no-pivot", NONE, false),
    ("no-new-keyring", NONE, false),
    ("preserve-fds", NONE, true),
    ("detach", 'd', false),
    ("keep", NONE, false),
    ("no-subreaper", NONE, false),
    HELP,
];

const EXEC: &[Known] = &[
    ("process", 'p', true),
    ("console-socket", NONE, true),
    ("pidfd-socket", NONE, true),
    ("pid-file", NONE, true),
    ("cwd", NONE, true),
    ("env", 'e', true),
    ("tty", 't', false),
    ("user", 'u', true),
    ("additional-gids", 'g', true),
    ("detach", 'd', false),
    ("process-label", NONE, true),
    ("apparmor", NONE, true),
    ("no-new-privs", NONE, false),
    ("cap", 'c', true),
    ("preserve-fds", NONE, true),
    ("cgroup", NONE, true),
    ("ignore-paused", NONE, false),
    HELP,
];

const UPDATE: &[Known] = &[
    ("resources", 'r', true),
    ("blkio-weight", NONE, true),
    ("cpu-period", NONE, true),
    ("cpu-quota", NONE, true),
    ("cpu-burst", NONE, true),
    ("cpu-share", NONE, true),
    ("cpu-shares", NONE, true),
    ("cpu-rt-period", NONE, true),
    ("cpu-rt-runtime", NONE, true),
    ("cpu-idle", NONE, true),
    ("cpuset-cpus", NONE, true),
    ("cpuset-mems", NONE, true),
    ("memory", NONE, true),
    ("memory-reservation", NONE, true),
    ("memory-swap", NONE, true),
    ("kernel-memory", NONE, true),
    ("kernel-memory-tcp", NONE, true),
    ("l3-cache-schema", NONE, true),
    ("mem-bw-schema", NONE, true),
    ("pids-limit", NONE, true),
    HELP,
];

const COMMANDS: &[Command] = &[
    ("create", CREATE, "ID"),
    ("start", &[HELP], "ID"),
    ("run", RUN, "ID"),
    ("exec", EXEC, "ID [COMMAND [ARG...]]"),
    ("state", &[HELP], "ID"),
    ("kill", &[("all", 'a', false), HELP], "ID [SIGNAL]"),
    (
        "delete",
        &[("force", 'f', false), ("regex", 'r', false), HELP],
        "ID",
    ),
    ("pause", &[HELP], "ID"),
    ("resume", &[HELP], "ID"),
    ("update", UPDATE, "ID"),
    (
        "events",
        &[("stats", NONE, false), ("interval", NONE, true), HELP],
        "ID",
    ),
    ("ps", &[("format", 'f', true), HELP], "ID [PS-OPTION...]"),
    ("list", &[("format", 'f', true), ("quiet", 'q', false), HELP], ""),
    (
        "spec",
        &[("bundle", 'b', true), ("rootless", NONE, false), HELP],
        "",
    ),
    ("features", &[HELP], ""),
    ("version", &[HELP], ""),
    ("help", &[HELP], ""),
];

/// What was asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Invocation {
    /// The command.
    pub(super) command: String,
    /// Options with their values (empty for those without one), in order.
    options: Vec<(&'static str, String)>,
    /// Options that were said not to hold (`--force=false`).
    denied: Vec<&'static str>,
    /// What is no option.
    pub(super) positional: Vec<String>,
}

impl Invocation {
    /// Reads the arguments after the program's name.
    pub(super) fn parse(arguments: &[String]) -> Result<Self, OciError> {
        let mut found = Self::default();
        let mut rest = arguments.iter().cloned();
        let mut known = GLOBAL;
        let mut plain = false;
        while let Some(argument) = rest.next() {
            let in_command = !found.command.is_empty();
            if !plain && argument == "--" {
                plain = true;
                continue;
            }
            let option = argument
                .strip_prefix("--")
                .or_else(|| argument.strip_prefix('-'))
                .filter(|name| !plain && !name.is_empty());
            let Some(option) = option else {
                if !in_command {
                    if matches!(argument.as_str(), "checkpoint" | "restore") {
                        return Err(OciError::Usage(format!(
                            "{argument} is not supported: processes are not kept in files"
                        )));
                    }
                    let (name, options, _) = COMMANDS
                        .iter()
                        .find(|(name, _, _)| *name == argument)
                        .ok_or_else(|| OciError::Usage(format!("unknown command {argument:?}")))?;
                    found.command = (*name).to_owned();
                    known = options;
                    continue;
                }
                found.positional.push(argument);
                // What follows the id is the program's or ps's.
                plain |= found.positional.len() > 1 && matches!(found.command.as_str(), "exec" | "ps");
                continue;
            };
            let (name, given) = match option.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (option, None),
            };
            let mut letters = name.chars();
            let single = letters.next().filter(|_| letters.next().is_none());
            let matches = |(long, short, _): &&Known| *long == name || single == Some(*short);
            let Some((long, _, takes)) = known.iter().chain(GLOBAL).find(matches) else {
                // `ps` passes what it does not know.
                if found.command == "ps" && !found.positional.is_empty() {
                    found.positional.push(argument);
                    plain = true;
                    continue;
                }
                return Err(OciError::Usage(format!("unknown option {argument}")));
            };
            let value = match (takes, given) {
                (true, Some(value)) => value,
                (true, None) => rest
                    .next()
                    .ok_or_else(|| OciError::Usage(format!("option {argument} needs a value")))?,
                (false, None) => String::new(),
                (false, Some(value)) => match value.as_str() {
                    "true" | "1" | "t" => String::new(),
                    "false" | "0" | "f" => {
                        found.options.retain(|(known, _)| known != long);
                        found.denied.push(long);
                        continue;
                    }
                    _ => return Err(OciError::Usage(format!("option --{long} takes no value"))),
                },
            };
            found.options.push((long, value));
        }
        if found.command.is_empty() {
            found.command = if found.has("version") { "version" } else { "help" }.into();
        }
        Ok(found)
    }

    /// Whether an option was given.
    pub(super) fn has(&self, name: &str) -> bool {
        self.options.iter().any(|(known, _)| *known == name)
    }

    /// Whether an option was said not to hold, and not to hold after that.
    pub(super) fn denies(&self, name: &str) -> bool {
        self.denied.contains(&name) && !self.has(name)
    }

    /// The last value of an option.
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.values(name).last()
    }

    /// All values of an option.
    pub(super) fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        self.options
            .iter()
            .filter(move |(known, _)| *known == name)
            .map(|(_, value)| value.as_str())
    }

    /// The value of an option as a number.
    pub(super) fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, OciError> {
        self.value(name)
            .map(|text| {
                text.trim().parse().map_err(|_| {
                    OciError::Usage(format!("option --{name}: {text:?} is not a number in range"))
                })
            })
            .transpose()
    }

    /// The container's id, which must be there.
    pub(super) fn id(&self) -> Result<&str, OciError> {
        let id = self.positional.first().map(String::as_str).unwrap_or_default();
        if id.is_empty() {
            return Err(OciError::Usage(format!(
                "{}: the container's id is missing",
                self.command
            )));
        }
        let most = match self.command.as_str() {
            "kill" => 2,
            "exec" | "ps" => usize::MAX,
            _ => 1,
        };
        match self.positional.get(most) {
            Some(extra) => Err(OciError::Usage(format!(
                "{}: unexpected argument {extra:?}",
                self.command
            ))),
            None => Ok(id),
        }
    }
}

/// The arguments that stand before the command.
pub(super) fn before_command(arguments: &[String]) -> &[String] {
    let mut end = 0;
    while let Some(option) = arguments.get(end).filter(|argument| argument.starts_with('-')) {
        let name = option.trim_start_matches('-');
        let takes = GLOBAL.iter().any(|(known, _, takes)| *known == name && *takes);
        end += if takes { 2 } else { 1 };
    }
    arguments.get(..end).unwrap_or(arguments)
}

/// The help of a command, or of all.
pub(super) fn help(command: &str) -> String {
    let option = |(name, short, takes): &Known| {
        let short = if *short == NONE {
            "    ".to_owned()
        } else {
            format!("-{short}, ")
        };
        format!("  {short}--{name}{}\n", if *takes { " VALUE" } else { "" })
    };
    let known = COMMANDS
        .iter()
        .find(|(name, _, _)| *name == command && command != "help");
    match known {
        Some((name, options, positional)) => format!(
            "usage: rcompose-oci [GLOBAL OPTIONS] {name} [OPTIONS] {positional}\n\n{}",
            options.iter().map(option).collect::<String>()
        ),
        None => format!(
            "usage: rcompose-oci [GLOBAL OPTIONS] COMMAND [OPTIONS] [ARG...]\n\n{}\ncommands:\n{}",
            GLOBAL.iter().map(option).collect::<String>(),
            COMMANDS
                .iter()
                .map(|(name, _, positional)| format!("  {name} {positional}\n"))
                .collect::<String>()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Invocation, String> {
        let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        Invocation::parse(&words).map_err(|error| error.to_string())
    }

    #[test]
    fn options_stand_before_and_after_the_id() {
        let found =
            parse("--root /r --log-format json create c1 --bundle=/b -pid-file f --no-pivot").unwrap();
        assert_eq!(found.command, "create");
        assert_eq!(found.id().unwrap(), "c1");
        assert_eq!(found.value("root"), Some("/r"));
        assert_eq!(found.value("bundle"), Some("/b"));
        assert_eq!(found.value("pid-file"), Some("f"));
        assert!(found.has("no-pivot"));
        let found = parse("delete --force --force=false x").unwrap();
        assert!(!found.has("force") && found.denies("force") && !found.denies("regex"));
        assert!(!parse("delete --force=false -f x").unwrap().denies("force"));
        assert!(parse("kill -a x KILL").unwrap().has("all"));
    }

    #[test]
    fn a_program_keeps_its_options() {
        let found = parse("exec -t --env A=b -e C=d c1 ls -t --root x").unwrap();
        assert_eq!(found.positional, ["c1", "ls", "-t", "--root", "x"]);
        assert_eq!(found.values("env").collect::<Vec<_>>(), ["A=b", "C=d"]);
        assert_eq!(
            parse("exec c1 -t -- sh -t").unwrap().positional,
            ["c1", "sh", "-t"]
        );
        assert_eq!(parse("ps c1 -ef").unwrap().positional, ["c1", "-ef"]);
    }

    #[test]
    fn what_stands_before_the_command_is_known() {
        let words = ["--debug", "--log", "f", "exec", "c1", "sh", "--log", "x"].map(str::to_owned);
        assert_eq!(before_command(&words), ["--debug", "--log", "f"]);
        assert_eq!(Invocation::parse(&words).unwrap().value("log"), Some("f"));
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert!(parse("create --nosuch x").unwrap_err().contains("--nosuch"));
        assert!(parse("create x --bundle").unwrap_err().contains("needs a value"));
        assert!(parse("nosuch").unwrap_err().contains("unknown command"));
        assert!(
            parse("restore --bundle x y")
                .unwrap_err()
                .contains("not supported")
        );
        assert!(parse("state").unwrap().id().is_err());
        assert!(parse("state a b").unwrap().id().is_err());
        assert!(
            parse("create --preserve-fds x c")
                .unwrap()
                .number::<u32>("preserve-fds")
                .is_err()
        );
        assert_eq!(parse("--version").unwrap().command, "version");
    }
}
