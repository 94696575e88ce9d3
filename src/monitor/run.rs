//! The life of a monitor.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use oci_spec::runtime::ContainerState;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};
use rustix::process::{WaitOptions, WaitStatus};
use serde::Serialize;
use serde_json::value::RawValue;

use super::attach::{Clients, Heard};
use super::log::Writer;
use super::output::{Output, Progress};
use super::{estate, standin};
use crate::runtime::change::{ORDERS, Reply, Wish};
use crate::runtime::hooks;
use crate::runtime::order::{self, Answer, HookOrder, MonitorOrder};
use crate::runtime::{
    Beginning, CLIENT, Errand, ExitRecord, ExitStatus, Failure, Handed, Launch, ProcessId, Revive, Stage,
    Step, now, reserve,
};
use crate::store::{self, Lock};
use crate::sys::clone::{Child, fork};
use crate::sys::stub::Stub;
use crate::sys::{fd, memory, process, signal};

/// After so much time without anything to do, memory is given back.
const REST: Duration = Duration::from_secs(1);
/// Room for an exit record, in bytes.
const RESERVED: u64 = 4096;
/// Pause before a supervisor is started once more, when the one we have started
/// ended without linking itself; doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Half of the pause when another monitor is at it. Long enough for a supervisor
/// to link itself to many of us; doubles each time.
const OTHERS_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The role. Argument: the number of descriptors it was given. Must be called
/// before any thread exists. Returns the container's status.
pub fn main(arguments: &[String]) -> i32 {
    let count = arguments
        .first()
        .and_then(|text| text.parse::<usize>().ok())
        .unwrap_or(0);
    let Ok(mut fds) = fd::Inherited::claim(count) else {
        return 125;
    };
    let Ok(answer) = fds.take(order::ANSWER) else {
        return 125;
    };
    // Executed by way of a descriptor, its name would be a number.
    let _ = rustix::thread::set_name(c"rcompose");
    signal::ignore(&[
        libc::SIGHUP,
        libc::SIGINT,
        libc::SIGQUIT,
        libc::SIGTERM,
        libc::SIGPIPE,
    ]);
    let begun = begin(fds);
    let (message, init) = match &begun {
        Ok((monitor, started)) => (Answer::clone_of(started), Some(monitor.child.pidfd.as_fd())),
        Err(failure) => (Answer::Failed(failure.clone()), None),
    };
    // A caller that is gone cannot be told; the container runs all the same,
    // and its record says so.
    if let Ok(bytes) = serde_json::to_vec(&message) {
        let _ = fd::send(
            answer.as_fd(),
            bytes.get(..order::LONGEST_ANSWER).unwrap_or(&bytes),
            init,
        );
    }
    drop(answer);
    match begun {
        Ok((monitor, _)) => monitor.watch(),
        Err(failure) => failure.kind().exit_code(),
    }
}

/// A running record as it is written: its larger part is passed on unread.
#[derive(Serialize)]
struct Running<'a> {
    monitor: ProcessId,
    init: ProcessId,
    started_at: u64,
    fixed: &'a RawValue,
}

/// What the answer says of a started container.
#[derive(Debug)]
struct Begun {
    monitor: ProcessId,
    init: ProcessId,
    started_at: u64,
    warnings: Vec<String>,
}

impl Answer {
    fn clone_of(begun: &Begun) -> Self {
        Self::Started {
            monitor: begun.monitor,
            init: begun.init,
            started_at: begun.started_at,
            warnings: begun.warnings.clone(),
        }
    }
}

/// Starts the container.
fn begin(mut fds: fd::Inherited) -> Result<(Monitor, Begun), Failure> {
    let given = |error: io::Error| Failure::new(Step::Request, "", &error);
    let order: MonitorOrder = order::read(fds.take(order::ORDER).map_err(given)?.as_fd()).map_err(given)?;
    let blueprint = fds.take(order::BLUEPRINT).map_err(given)?;
    let executable = fds.take(order::EXECUTABLE).map_err(given)?;
    let door = fds.take(order::DOOR).map_err(given)?;
    let mut optional =
        |number: Option<usize>| number.map(|number| fds.take(number)).transpose().map_err(given);
    let (filter, network, link, client, estate) = (
        optional(order.filter)?,
        optional(order.network)?,
        optional(order.link)?,
        optional(order.client)?,
        optional(order.estate)?,
    );
    process::become_subreaper().map_err(given)?;
    // No folder of whoever started us is kept busy.
    std::env::set_current_dir("/").map_err(given)?;
    let log = Writer::open(&order.log, order.log_plan.clone())
        .map_err(|error| Failure::new(Step::Log, order.log.display().to_string(), &error))?;
    let record = reserve_room(&order).ok();
    let (mut output, inside) = Output::pipes(order.terminal, order.stdin_open).map_err(given)?;
    if let Some(estate) = &estate {
        // Before anything can be printed.
        estate::leave(estate.as_fd(), estate::MEMORY, log.memory());
        for (name, one) in output.left() {
            estate::leave(estate.as_fd(), name, one);
        }
    }
    let (report, inner_report) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(|error| given(error.into()))?;
    let children = SigSet::from(Signal::SIGCHLD);
    children.thread_block().map_err(|error| given(error.into()))?;
    let children = SignalFd::with_flags(&children, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(|error| given(error.into()))?;

    let stage = match order.alone.then(Stub::new).flatten() {
        Some(stub) => Stage::Cloned {
            stub,
            blueprint: Handed::Sealed(blueprint.as_fd()),
            early: false,
        },
        None => Stage::Executed {
            executable: executable.as_fd(),
            blueprint: blueprint.as_fd(),
        },
    };
    let started_at = now();
    let mut terminal = None;
    let child = if let Some(foreign) = &order.foreign {
        let blueprint = order::read(blueprint.as_fd()).map_err(given)?;
        let standard = [inside.stdin.as_fd(), inside.stdout.as_fd(), inside.stderr.as_fd()];
        let network = network.as_ref().map(|fd| fd.as_fd());
        let made = foreign
            .create(&order.id, &blueprint, network, standard)
            .inspect_err(|_| foreign.delete(&order.id))?;
        terminal = made.terminal;
        made.child
    } else {
        Launch {
            namespaces: &order.namespaces,
            cgroup: &order.cgroup,
            stage,
            report: inner_report.as_fd(),
            control: report.as_fd(),
            filter: filter.as_ref().map(|fd| fd.as_fd()),
            network: network.as_ref().map(|fd| fd.as_fd()),
            standard: [inside.stdin.as_fd(), inside.stdout.as_fd(), inside.stderr.as_fd()],
            passed: Vec::new(),
            preserved: 0,
            outlives: false,
        }
        .make()?
    };
    if let Some(estate) = estate {
        estate::leave(estate.as_fd(), estate::INIT, child.pidfd.as_fd());
    }
    let (init, own) = match (ProcessId::of(child.pid), ProcessId::of(std::process::id())) {
        (Ok(init), Ok(own)) => (init, own),
        (Err(error), _) | (_, Err(error)) => return Err(Failure::new(Step::Clone, "", &error)),
    };
    // While the stage works. If writing fails, ending takes it with us.
    let running = Running {
        monitor: own,
        init,
        started_at,
        fixed: &order.fixed,
    };
    store::write_record(&order.running_record, &running)
        .inspect_err(|_| order.foreign.iter().for_each(|foreign| foreign.delete(&order.id)))
        .map_err(|error| Failure::because(Step::Record, "", error.to_string()))?;
    drop((blueprint, executable, inside, inner_report, filter, network));
    let mut hooks = order.hooks.clone();
    if let Some(order) = &mut hooks {
        order.state.set_pid(i32::try_from(child.pid).ok());
        // It waits for its number as we see it; if it has failed, it says why.
        let _ = fd::send(report.as_fd(), child.pid.to_string().as_bytes(), None);
    }
    let warnings = if let Some(foreign) = &order.foreign {
        // It is no child that ends with us by itself.
        foreign
            .start(&order.id)
            .inspect_err(|_| foreign.delete(&order.id))?;
        vec![]
    } else {
        let run = |errand| match (errand, &hooks) {
            (Errand::Hooks, Some(order)) => run_hooks(order, &["prestart", "createRuntime"]),
            // Idmapped mounts are refused in stacks.
            (Errand::Hooks | Errand::Map(..), _) => Ok(()),
        };
        let beginning = Beginning::listen_and(report.as_fd(), run).map_err(given)?;
        if let Some(failure) = beginning.failure {
            return Err(failure);
        }
        if !beginning.executing {
            let reason = if order.cgroup.oom_kills() > 0 {
                "killed for want of memory"
            } else {
                "killed"
            };
            return Err(Failure::because(Step::Exec, "init stage", reason));
        }
        if let Some(order) = &mut hooks {
            order.state.set_status(ContainerState::Running);
            run_hooks(order, &["poststart"])?;
        }
        terminal = beginning.terminal;
        beginning.warnings
    };
    if let Some(master) = terminal {
        output = Output::of_terminal(master).map_err(given)?;
    }
    let begun = Begun {
        monitor: own,
        init,
        started_at,
        warnings,
    };
    let monitor = Monitor {
        order,
        child,
        output,
        log,
        clients: Clients::beginning_with(client),
        record,
        children,
        door,
        link,
        orders: None,
        inherited: fds,
        kept: Vec::new(),
        reviving: None,
        alone: None,
        started_at,
        resting: false,
    };
    Ok((monitor, begun))
}

/// Runs the hooks of these kinds.
fn run_hooks(order: &HookOrder, kinds: &[&str]) -> Result<(), Failure> {
    for kind in kinds {
        let list = match *kind {
            "prestart" => order.hooks.prestart(),
            "createRuntime" => order.hooks.create_runtime(),
            "poststart" => order.hooks.poststart(),
            _ => order.hooks.poststop(),
        };
        let place = order.state.bundle();
        hooks::run(kind, list.as_deref().unwrap_or_default(), &order.state, place)?;
    }
    Ok(())
}

/// Makes room for the exit record, so that a disk that is full by then cannot
/// keep it from being written.
fn reserve_room(order: &MonitorOrder) -> io::Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(reserve(&order.exit_record), flags, Mode::from_raw_mode(0o600))?;
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, RESERVED)?;
    Ok(file)
}

/// A monitor whose container runs.
#[derive(Debug)]
struct Monitor {
    order: MonitorOrder,
    child: Child,
    output: Output,
    log: Writer,
    clients: Clients,
    /// Room for the exit record.
    record: Option<OwnedFd>,
    children: SignalFd,
    door: OwnedFd,
    link: Option<OwnedFd>,
    /// Where a supervisor says what is to change.
    orders: Option<OwnedFd>,
    /// Held for others to take: sockets of the name service and the like.
    inherited: fd::Inherited,
    /// And those that came later.
    kept: Vec<OwnedFd>,
    /// The supervisor we have started: our right to do so, and its process id.
    reviving: Option<(Lock, u32)>,
    /// Without a supervisor that should be there: the next attempt to start one.
    alone: Option<Attempt>,
    started_at: u64,
    /// Memory has been given back, and nothing has happened since.
    resting: bool,
}

/// An attempt to come.
#[derive(Clone, Copy, Debug)]
struct Attempt {
    at: Instant,
    /// Attempts that have come to nothing.
    failures: u32,
}

impl Attempt {
    /// The attempt that follows so many; the pause doubles with each.
    fn after(failures: u32, first: Duration) -> Self {
        let pause = first.saturating_mul(2_u32.saturating_pow(failures));
        Self {
            at: Instant::now() + pause.min(LONGEST_PAUSE),
            failures,
        }
    }
}

impl Monitor {
    /// Waits for whatever happens until the container ends; its status.
    fn watch(mut self) -> i32 {
        loop {
            let ready = self.wait();
            if ready.nothing {
                self.output.rest();
                self.log.rest();
                memory::rest();
                self.resting = true;
                continue;
            }
            self.resting = false;
            let mut ended = Vec::new();
            for (number, _) in ready.output.iter().enumerate().filter(|(_, ready)| **ready) {
                if self.output.read(number, &mut self.log, &mut self.clients) == Progress::Ended {
                    ended.push(number);
                }
            }
            self.output.forget(ended);
            if self.log.held_until().is_some() {
                self.log.release_tails(Some(Instant::now()), now());
            }
            if ready.input {
                self.output.input.flush();
            }
            self.hear_clients(&ready.clients);
            self.clients.send_held();
            // The old link before a new one takes its place.
            if ready.link {
                self.look_at_link();
            }
            if ready.orders {
                self.take_order();
            }
            if ready.door {
                self.accept();
            }
            if self.alone.is_some_and(|next| next.at <= Instant::now()) {
                self.bring_back();
            }
            if ready.children
                && let Some(status) = self.reap()
            {
                return self.end(status);
            }
        }
    }

    fn wait(&self) -> Ready {
        let mut fds: Vec<PollFd<'_>> = Vec::with_capacity(5);
        fds.push(PollFd::new(&self.children, PollFlags::IN));
        fds.push(PollFd::new(&self.door, PollFlags::IN));
        let link = self.link.as_ref().map(|_| fds.len());
        fds.extend(self.link.iter().map(|link| PollFd::new(link, PollFlags::IN)));
        let orders = self.orders.as_ref().map(|_| fds.len());
        fds.extend(
            self.orders
                .iter()
                .map(|orders| PollFd::new(orders, PollFlags::IN)),
        );
        let output = fds.len();
        fds.extend(
            self.output
                .descriptors()
                .filter(|_| !self.clients.are_full())
                .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)),
        );
        let clients = fds.len();
        let input = self.output.input.waits();
        fds.extend(
            self.clients
                .descriptors(input.is_some())
                .map(|(fd, wanted)| PollFd::from_borrowed_fd(fd, wanted)),
        );
        let last = fds.len();
        fds.extend(input.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::OUT)));
        let next = [self.log.held_until(), self.alone.map(|next| next.at)];
        let left = next
            .into_iter()
            .flatten()
            .min()
            .map(|time| time.saturating_duration_since(Instant::now()));
        // With nothing to do for so long, it gives memory back, once.
        let rest = left.is_none() && !self.resting;
        let timeout = left.or(rest.then_some(REST)).map(|left| Timespec {
            tv_sec: left.as_secs().cast_signed(),
            tv_nsec: left.subsec_nanos().into(),
        });
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(0) if rest => {
                return Ready {
                    nothing: true,
                    ..Ready::default()
                };
            }
            Ok(_) => {}
            // Interrupted: look again.
            Err(_) => return Ready::default(),
        }
        let ready = |number: usize| fds.get(number).is_some_and(|fd| !fd.revents().is_empty());
        Ready {
            nothing: false,
            children: ready(0),
            door: ready(1),
            link: link.is_some_and(ready),
            orders: orders.is_some_and(ready),
            output: (output..clients).map(ready).collect(),
            clients: (clients..last).map(ready).collect(),
            input: input.is_some() && ready(last),
        }
    }

    /// Reaps every child that has ended; the container's status if it has.
    fn reap(&mut self) -> Option<WaitStatus> {
        while let Ok(Some(_)) = self.children.read_signal() {}
        let mut ended = None;
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            let pid = u32::try_from(pid.as_raw_nonzero().get()).unwrap_or(0);
            if pid == self.child.pid {
                ended = Some(status);
            }
            if self
                .reviving
                .as_ref()
                .is_some_and(|(_, supervisor)| *supervisor == pid)
            {
                self.reviving = None;
                // It ended without a link: killed, perhaps.
                if let Some(last) = self.alone {
                    self.alone = Some(Attempt::after(last.failures.saturating_add(1), FIRST_PAUSE));
                }
            }
        }
        ended
    }

    /// The container has ended: writes what is left to write.
    fn end(mut self, status: WaitStatus) -> i32 {
        self.output.drain(&mut self.log, &mut self.clients);
        self.log.release_tails(None, now());
        let ExitStatus { code, signal } = ExitStatus::of_wait(status.as_raw());
        if let Some(order) = &mut self.order.hooks {
            order.state.set_status(ContainerState::Stopped);
            order.state.set_pid(None);
            // A failed one changes nothing: the container has ended.
            let _ = run_hooks(order, &["poststop"]);
        }
        let record = ExitRecord {
            code,
            signal,
            oom_killed: self.order.cgroup.oom_kills() > 0,
            started_at: self.started_at,
            finished_at: now(),
            error: None,
        };
        if self.write_reserved(&record).is_err() {
            let _ = store::write_record(&self.order.exit_record, &record);
            let _ = store::remove_record(&reserve(&self.order.exit_record));
        }
        if let Some(foreign) = &self.order.foreign {
            foreign.delete(&self.order.id);
        }
        self.clients.tell_end(code);
        self.stay_behind();
        code
    }

    /// Leaves somebody who brings the supervisor back while it may still have to
    /// start the container again.
    fn stay_behind(self) {
        // After a goodbye nobody is to be brought back.
        if self.link.is_none() && self.alone.is_none() {
            return;
        }
        let Self {
            order,
            child,
            output,
            log,
            clients,
            record,
            children,
            door,
            link,
            orders,
            inherited,
            kept,
            reviving,
            ..
        } = self;
        let Some(revive) = order.revive else { return };
        // The next run needs some of it, and nothing is kept busy. Before the fork:
        // whoever sees us gone finds none of it held any more, a volume's lock say.
        drop((child, output, log, clients, record, children, door, orders));
        drop((inherited, kept, reviving));
        let _ = fork(move || {
            standin::stand_in(&revive, link);
            0
        });
    }

    /// Writes the exit record into the room that was reserved, and gives it its name.
    fn write_reserved(&self, record: &ExitRecord) -> io::Result<()> {
        let file = self.record.as_ref().ok_or(io::ErrorKind::NotFound)?;
        let bytes = serde_json::to_vec(record)?;
        let mut done = 0;
        while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
            done += rustix::io::pwrite(file, rest, u64::try_from(done).unwrap_or(0))?;
        }
        rustix::fs::ftruncate(file, u64::try_from(bytes.len()).unwrap_or(0))?;
        fs::rename(reserve(&self.order.exit_record), &self.order.exit_record)
    }

    /// A new supervisor links itself, or a client attaches itself.
    fn accept(&mut self) {
        let mut buffer = [0; 16];
        match fd::receive(self.door.as_fd(), &mut buffer) {
            Ok((length, Some(client))) if buffer.get(..length) == Some(CLIENT) => self.clients.add(client),
            Ok((length, Some(orders))) if buffer.get(..length) == Some(ORDERS) => self.orders = Some(orders),
            Ok((_, Some(link))) => {
                self.link = Some(link);
                self.reviving = None;
                self.alone = None;
            }
            _ => {}
        }
    }

    /// Does what the supervisor wants changed, and answers.
    fn take_order(&mut self) {
        let Some(orders) = self.orders.take() else { return };
        let mut buffer = vec![0; order::LONGEST_ANSWER];
        let Ok((length, with)) = fd::receive(orders.as_fd(), &mut buffer) else {
            return;
        };
        // At its end there is nothing.
        let Some(text) = buffer.get(..length).filter(|text| !text.is_empty()) else {
            return;
        };
        let reply: Reply = match (serde_json::from_slice(text), with) {
            (Ok(Wish::Log(plan)), _) => match self.log.change(plan) {
                Ok(()) => Ok(None),
                Err(error) => Err(error.to_string()),
            },
            (Ok(Wish::Keep), Some(fd)) => {
                let number = fd.as_raw_fd();
                self.kept.push(fd);
                Ok(Some(number))
            }
            (Ok(Wish::Only(numbers)), _) => {
                let own = numbers.iter().filter_map(|number| usize::try_from(*number).ok());
                self.inherited.keep_only(&own.collect::<Vec<_>>());
                self.kept.retain(|fd| numbers.contains(&fd.as_raw_fd()));
                Ok(None)
            }
            (Ok(Wish::Keep), None) => Err("nothing to keep came with it".to_owned()),
            (Err(error), _) => Err(error.to_string()),
        };
        let answered = serde_json::to_vec(&reply).map(|text| fd::send(orders.as_fd(), &text, None));
        if matches!(answered, Ok(Ok(()))) {
            self.orders = Some(orders);
        }
    }

    /// Hears the clients that have something to say. Their numbers are those
    /// that were waited for: new ones come behind, but one that was too slow
    /// for what was printed since may be gone, and then the next look decides.
    fn hear_clients(&mut self, ready: &[bool]) {
        if ready.len() != self.clients.count() {
            return;
        }
        let mut gone = Vec::new();
        for (number, _) in ready.iter().enumerate().filter(|(_, ready)| **ready) {
            match self.clients.hear(number) {
                Heard::Input(bytes) if bytes.is_empty() => self.end_input(),
                Heard::Input(bytes) if self.order.stdin_open => self.output.input.give(&bytes),
                Heard::Size(size) if self.order.terminal => self.output.input.resize(size),
                Heard::Gone => {
                    if self.clients.is_first(number) {
                        self.end_input();
                    }
                    gone.push(number);
                }
                Heard::Input(_) | Heard::Size(_) | Heard::Nothing => {}
            }
        }
        self.clients.forget(gone);
    }

    /// There will be no more input; a terminal has no end.
    fn end_input(&mut self) {
        if !self.order.terminal {
            self.output.input.end();
        }
    }

    /// The supervisor says goodbye, or is gone.
    fn look_at_link(&mut self) {
        let Some(link) = self.link.take() else { return };
        let mut byte = [0; 1];
        // Never blocks: nothing would reap the container meanwhile.
        match rustix::net::recv(&link, &mut byte, RecvFlags::DONTWAIT).map(|(_, length)| length) {
            // Goodbye: nobody is to be brought back.
            Ok(1..) => {}
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => self.link = Some(link),
            Ok(_) | Err(_) => self.bring_back(),
        }
    }

    /// Starts a supervisor, or sees to it later when another monitor is at it:
    /// that one may be killed before it has.
    fn bring_back(&mut self) {
        let Some(revive) = &self.order.revive else { return };
        let failures = self.alone.map_or(0, |last| last.failures);
        if self.reviving.is_none() {
            self.reviving = bring_back(revive);
        }
        self.alone = Some(if self.reviving.is_some() {
            // Whether it links itself or ends, we hear of it.
            Attempt::after(failures, LONGEST_PAUSE)
        } else {
            Attempt::after(failures.saturating_add(1), OTHERS_PAUSE)
        });
    }
}

/// Starts a supervisor, unless another monitor of the stack is doing it. The
/// lock is held until the new one has linked itself or has failed.
fn bring_back(revive: &Revive) -> Option<(Lock, u32)> {
    let lock = Lock::try_take(&revive.lock).ok()??;
    let pid = standin::start_supervisor(revive, None).ok()?;
    Some((lock, pid))
}

/// What poll(2) says.
#[derive(Debug, Default)]
struct Ready {
    /// And will not be soon.
    nothing: bool,
    children: bool,
    door: bool,
    link: bool,
    orders: bool,
    output: Vec<bool>,
    clients: Vec<bool>,
    input: bool,
}
