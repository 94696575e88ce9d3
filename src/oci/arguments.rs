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

/// A command: name, options, positional arguments and purpose as help shows them.
type Command = (&'static str, &'static [Known], &'static str, &'static str);

/// Commands of other runtimes that there are none of here.
const REFUSED: [&str; 2] = ["checkpoint", "restore"];

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
    ("create", CREATE, "ID", "make a container, without its program"),
    (
        "start",
        &[HELP],
        "ID",
        "execute the program of a container that was created",
    ),
    ("run", RUN, "ID", "make a container and execute its program"),
    (
        "exec",
        EXEC,
        "ID [COMMAND [ARG...]]",
        "execute a further program in a container",
    ),
    ("state", &[HELP], "ID", "print the state of a container"),
    (
        "kill",
        &[("all", 'a', false), HELP],
        "ID [SIGNAL]",
        "send a signal to a container",
    ),
    (
        "delete",
        &[("force", 'f', false), ("regex", 'r', false), HELP],
        "ID",
        "remove what is left of a container",
    ),
    ("pause", &[HELP], "ID", "freeze all processes of a container"),
    (
        "resume",
        &[HELP],
        "ID",
        "let the processes of a paused container go on",
    ),
    ("update", UPDATE, "ID", "change the limits of a container"),
    (
        "events",
        &[("stats", NONE, false), ("interval", NONE, true), HELP],
        "ID",
        "print what a container uses, as it goes",
    ),
    (
        "ps",
        &[("format", 'f', true), HELP],
        "ID [PS-OPTION...]",
        "list the processes of a container",
    ),
    (
        "list",
        &[("format", 'f', true), ("quiet", 'q', false), HELP],
        "",
        "list the containers",
    ),
    (
        "spec",
        &[("bundle", 'b', true), ("rootless", NONE, false), HELP],
        "",
        "write a first configuration",
    ),
    ("features", &[HELP], "", "print what the runtime can do"),
    ("version", &[HELP], "", "print the version"),
    ("help", &[HELP], "", "print this help"),
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
        let mut rest = arguments.iter();
        let mut known = GLOBAL;
        let mut plain = false;
        while let Some(argument) = rest.next().cloned() {
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
                    let asks = |words: &[String]| {
                        words
                            .iter()
                            .any(|word| matches!(word.as_str(), "-h" | "-help" | "--help"))
                    };
                    if REFUSED.contains(&argument.as_str()) {
                        if asks(rest.as_slice()) {
                            found.command = argument;
                            found.options.push(("help", String::new()));
                            return Ok(found);
                        }
                        return Err(OciError::Usage(format!(
                            "{argument} is not supported: processes are not kept in files"
                        )));
                    }
                    let known_command = COMMANDS.iter().find(|(name, ..)| *name == argument);
                    let (name, options, ..) = known_command.ok_or_else(|| {
                        OciError::Usage(match asks(rest.as_slice()) {
                            true => format!("No help topic for '{argument}'"),
                            false => format!("unknown command {argument:?}"),
                        })
                    })?;
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
                    .cloned()
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
        .find(|(name, ..)| *name == command && command != "help");
    if let Some((name, options, positional, purpose)) = known {
        let options: String = options.iter().map(option).collect();
        return format!(
            "NAME:\n  rcompose-oci {name} - {purpose}\n\n\
             USAGE:\n  rcompose-oci [GLOBAL OPTIONS] {name} [OPTIONS] {positional}\n\nOPTIONS:\n{options}"
        );
    }
    if REFUSED.contains(&command) {
        return format!("NAME:\n  rcompose-oci {command} - not supported: processes are not kept in files\n");
    }
    let commands: String = COMMANDS
        .iter()
        .map(|(name, _, positional, purpose)| format!("  {:<28} {purpose}\n", format!("{name} {positional}")))
        .collect();
    let options: String = GLOBAL.iter().map(option).collect();
    format!(
        "NAME:\n  rcompose-oci - Open Container Initiative runtime\n\n\
         USAGE:\n  rcompose-oci [GLOBAL OPTIONS] COMMAND [OPTIONS] [ARG...]\n\n\
         COMMANDS:\n{commands}\nGLOBAL OPTIONS:\n{options}"
    )
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
    fn each_command_has_its_help() {
        for command in COMMANDS.iter().map(|(name, ..)| *name).chain(REFUSED) {
            let text = help(&parse(&format!("{command} -h")).unwrap().command);
            let mut lines = text.lines();
            assert_eq!(lines.next(), Some("NAME:"));
            let line = lines.next().unwrap();
            assert!(
                line.contains(" - ") && (line.contains(command) || command == "help"),
                "{line}"
            );
        }
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
        assert!(
            parse("nosuch --help")
                .unwrap_err()
                .contains("No help topic for 'nosuch'")
        );
        assert!(parse("restore x -h").unwrap().has("help"));
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
