//! The fields of a stack file: the Compose Specification as one table.
//!
//! Order within a shape is the order in which docker compose prints it. What
//! cannot be run yet is no matter of this table (see `project::unsupported`).

use super::form::{Cast, Field, Form, Format, Identity, Kind, Merge, Pattern, Print, Shape, field};

const TEXT: Form = Form::of(&[Kind::Text]);
const BOOL: Form = Form::of(&[Kind::Bool, Kind::Text]).cast(Cast::Bool);
const INT: Form = Form::of(&[Kind::Int, Kind::Text]).cast(Cast::Int);
const WHOLE: Form = Form::of(&[Kind::Int]);
const NUMBER: Form = Form::of(&[Kind::Number, Kind::Text]).cast(Cast::Int);
const FLOAT: Form = Form::of(&[Kind::Number, Kind::Text]).cast(Cast::Float);
const BYTES: Form = Form::of(&[Kind::Number, Kind::Text]).format(Format::Bytes);
const BYTES_TEXT: Form = Form::of(&[Kind::Text]).format(Format::Bytes);
const DURATION: Form = Form::of(&[Kind::Text]).format(Format::Duration);
const SCALAR: Form = Form::of(&[Kind::Bool, Kind::Null, Kind::Number, Kind::Text]);
const OPTION: Form = Form::of(&[Kind::Number, Kind::Text]);
const LOG_OPTION: Form = Form::of(&[Kind::Null, Kind::Number, Kind::Text]);
const WORDS: Form = Form::of(&[Kind::Null, Kind::Text, Kind::List])
    .format(Format::Words)
    .items(&TEXT);
const TEXTS: Form = Form::of(&[Kind::Text, Kind::List])
    .format(Format::Texts)
    .items(&TEXT)
    .unique();
const TEXT_LIST: Form = Form::of(&[Kind::List]).items(&TEXT);
const TEXT_SET: Form = TEXT_LIST.unique();
const TEXT_OR_NUMBER: Form = Form::of(&[Kind::Text, Kind::Number]).format(Format::Text);
const LOOSE_SET: Form = Form::of(&[Kind::List]).items(&TEXT_OR_NUMBER).unique();
const ASSIGNMENTS: Form = Form::of(&[Kind::Map, Kind::List])
    .format(Format::Assignments)
    .values(&SCALAR)
    .items(&TEXT)
    .unique();
const LABELS: Form = ASSIGNMENTS.format(Format::Labels);
const OPTIONS: Form = Form::of(&[Kind::Map]).format(Format::Options).values(&OPTION);
const HOST: Form = Form::of(&[Kind::Text, Kind::List]).items(&TEXT);
const HOSTS: Form = Form::of(&[Kind::Map, Kind::List])
    .format(Format::Hosts)
    .values(&HOST)
    .items(&TEXT)
    .unique();

/// Two characters that may follow each other in the name of a container: the
/// specification asks for no more.
const CONTAINER_NAME: Pattern = Pattern {
    text: "[a-zA-Z0-9][a-zA-Z0-9_.-]+",
    fits: |text| {
        let bytes = text.as_bytes();
        bytes.windows(2).any(|pair| {
            matches!(pair, [first, second] if first.is_ascii_alphanumeric()
                && (second.is_ascii_alphanumeric() || b"_.-".contains(second)))
        })
    },
};

const PULL_POLICY: Pattern = Pattern {
    text: "always|never|build|if_not_present|missing|refresh|daily|weekly|every_([0-9]+[wdhms])+",
    fits: |text| {
        const WORDS: [&str; 8] = [
            "always",
            "never",
            "build",
            "if_not_present",
            "missing",
            "refresh",
            "daily",
            "weekly",
        ];
        let every = |rest: &str| {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            digits > 0
                && rest
                    .as_bytes()
                    .get(digits)
                    .is_some_and(|unit| b"wdhms".contains(unit))
        };
        WORDS.iter().any(|word| text.contains(word)) || text.split("every_").skip(1).any(every)
    },
};

const ULIMIT: Shape = Shape::new(
    "ulimit",
    &[
        field("soft", &INT, "Soft limit; -1 is unlimited.").required(),
        field("hard", &INT, "Hard limit; -1 is unlimited.").required(),
    ],
);
const ULIMITS: Form = Form::of(&[Kind::Map]).values(
    &Form::of(&[Kind::Int, Kind::Text, Kind::Map])
        .cast(Cast::Int)
        .shape(&ULIMIT),
);

const GRANT: Shape = Shape::new(
    "grant",
    &[
        field("source", &TEXT, "Key of the config or secret."),
        field("target", &TEXT, "Path inside the container."),
        field("uid", &TEXT, "Owner."),
        field("gid", &TEXT, "Group."),
        field(
            "mode",
            &Form::of(&[Kind::Number, Kind::Text]).format(Format::Mode),
            "File mode, octal.",
        )
        .print(Print::Present),
    ],
);
const GRANTS: Form = Form::of(&[Kind::List]).items(
    &Form::of(&[Kind::Text, Kind::Map])
        .format(Format::Grant)
        .shape(&GRANT),
);

const BUILD: Shape = Shape::new(
    "build",
    &[
        field("context", &TEXT, "Folder or URL that is built."),
        field("dockerfile", &TEXT, "Dockerfile inside the context."),
        field("dockerfile_inline", &TEXT, "The Dockerfile itself."),
        field("entitlements", &TEXT_SET, "Privileges of the build."),
        field("args", &ASSIGNMENTS, "Build arguments.").merge(Merge::Assign),
        field(
            "provenance",
            &Form::of(&[Kind::Text, Kind::Bool]).format(Format::BoolText),
            "Provenance attestation.",
        ),
        field(
            "sbom",
            &Form::of(&[Kind::Text, Kind::Bool]).format(Format::BoolText),
            "Bill of materials.",
        ),
        field(
            "ssh",
            &Form::of(&[Kind::Map, Kind::List])
                .format(Format::Ssh)
                .values(&SCALAR)
                .items(&TEXT)
                .unique(),
            "SSH agents.",
        ),
        field("labels", &LABELS, "Image labels.").merge(Merge::Assign),
        field("cache_from", &TEXT_LIST, "Caches read."),
        field("cache_to", &TEXT_LIST, "Caches written."),
        field("no_cache", &BOOL, "Build without a cache."),
        field(
            "no_cache_filter",
            &Form::of(&[Kind::Text, Kind::List])
                .format(Format::Texts)
                .items(&TEXT),
            "Stages built without a cache.",
        ),
        field("additional_contexts", &LABELS, "Further contexts by name.").merge(Merge::Assign),
        field("pull", &BOOL, "Always pull base images."),
        field("extra_hosts", &HOSTS, "Names for /etc/hosts during the build.").identity(Identity::Whole),
        field("isolation", &TEXT, "Isolation technology."),
        field("network", &TEXT, "Network of RUN instructions."),
        field("target", &TEXT, "Stage that is built."),
        field("secrets", &GRANTS, "Secrets of the build."),
        field("shm_size", &BYTES, "Size of /dev/shm."),
        field("tags", &TEXT_SET, "Further image tags.").identity(Identity::BeforeEquals),
        field("ulimits", &ULIMITS, "Resource limits of the build.").merge(Merge::Assign),
        field("platforms", &TEXT_LIST, "Target platforms."),
        field("privileged", &BOOL, "Build with elevated privileges."),
    ],
);

const HOOK_PRE_START: Shape = Shape::new(
    "pre_start_hook",
    &[
        field("command", &WORDS, "What is run.").print(Print::OrNull),
        field("image", &TEXT, "Its image; default: the service's."),
        field("user", &TEXT, "Its user."),
        field("privileged", &BOOL, "With all privileges."),
        field("working_dir", &TEXT, "Its working directory."),
        field("environment", &ASSIGNMENTS, "Its environment.").merge(Merge::Assign),
        field("per_replica", &BOOL, "Once a replica instead of once a service."),
    ],
);
const HOOK: Shape = Shape::new(
    "hook",
    &[
        field("command", &WORDS, "What is run.")
            .print(Print::OrNull)
            .required(),
        field("user", &TEXT, "Its user."),
        field("privileged", &BOOL, "With all privileges."),
        field("working_dir", &TEXT, "Its working directory."),
        field("environment", &ASSIGNMENTS, "Its environment.").merge(Merge::Assign),
    ],
);
const HOOKS: Form = Form::of(&[Kind::List]).items(&Form::of(&[Kind::Map]).shape(&HOOK));

const WATCH: Shape = Shape::new(
    "watch",
    &[
        field("path", &TEXT, "What is watched.")
            .required()
            .print(Print::Present),
        field(
            "action",
            &TEXT.one_of(&["rebuild", "sync", "restart", "sync+restart", "sync+exec"]),
            "What a change does.",
        )
        .required()
        .print(Print::Present),
        field("target", &TEXT, "Where files are synced to."),
        field("exec", &Form::of(&[Kind::Map]).shape(&HOOK), "Run after a sync.").print(Print::OrEmpty),
        field("include", &TEXTS, "Patterns of files that count."),
        field("ignore", &TEXTS, "Patterns of files that do not."),
        field("initial_sync", &BOOL, "Sync once at the start."),
    ],
);

const THROTTLE: Form = Form::of(&[Kind::List]).items(&Form::of(&[Kind::Map]).shape(&Shape::new(
    "blkio_throttle",
    &[
        field("path", &TEXT, "Device.").in_json("Path"),
        field("rate", &BYTES, "Bytes or operations a second.").in_json("Rate"),
    ],
)));

const BLKIO: Shape = Shape::new(
    "blkio_config",
    &[
        field("weight", &INT, "Relative weight."),
        field(
            "weight_device",
            &Form::of(&[Kind::List]).items(&Form::of(&[Kind::Map]).shape(&Shape::new(
                "blkio_weight",
                &[
                    field("path", &TEXT, "Device.").in_json("Path"),
                    field("weight", &INT, "Relative weight.").in_json("Weight"),
                ],
            ))),
            "Weight a device.",
        ),
        field("device_read_bps", &THROTTLE, "Bytes read a second."),
        field("device_read_iops", &THROTTLE, "Reads a second."),
        field("device_write_bps", &THROTTLE, "Bytes written a second."),
        field("device_write_iops", &THROTTLE, "Writes a second."),
    ],
);

const DEVICE_REQUEST: Shape = Shape::new(
    "device_request",
    &[
        field("capabilities", &TEXT_SET, "What the devices can do.").required(),
        field("driver", &TEXT, "Device driver."),
        field(
            "count",
            &Form::of(&[Kind::Int, Kind::Text]).format(Format::Count),
            "How many, or `all`.",
        ),
        field("device_ids", &TEXT_SET, "Which."),
        field("options", &LABELS, "Driver options.").merge(Merge::Assign),
    ],
);
const GPU_REQUEST: Shape = Shape::new(
    "gpu_request",
    &[
        field("capabilities", &TEXT_SET, "What the devices can do."),
        field("driver", &TEXT, "Device driver."),
        field(
            "count",
            &Form::of(&[Kind::Int, Kind::Text]).format(Format::Count),
            "How many, or `all`.",
        ),
        field("device_ids", &TEXT_SET, "Which."),
        field("options", &LABELS, "Driver options.").merge(Merge::Assign),
    ],
);

const UPDATE: Shape = Shape::new(
    "update_config",
    &[
        field("parallelism", &INT, "Containers at a time.").print(Print::Present),
        field("delay", &DURATION, "Time between."),
        field("failure_action", &TEXT, "`continue`, `rollback` or `pause`."),
        field("monitor", &DURATION, "Time a failure counts for."),
        field("max_failure_ratio", &FLOAT, "Failures tolerated."),
        field(
            "order",
            &TEXT.one_of(&["start-first", "stop-first"]),
            "Which comes first.",
        ),
    ],
);

const DEPLOY: Shape = Shape::new(
    "deploy",
    &[
        field("mode", &TEXT, "`replicated`."),
        field("replicas", &INT, "How many containers.").print(Print::Present),
        field("labels", &LABELS, "Labels of the service.").merge(Merge::Assign),
        field(
            "update_config",
            &Form::of(&[Kind::Map]).shape(&UPDATE),
            "How changes are rolled out.",
        )
        .print(Print::Present),
        field(
            "rollback_config",
            &Form::of(&[Kind::Map]).shape(&UPDATE),
            "How failures are rolled back.",
        )
        .print(Print::Present),
        field(
            "resources",
            &Form::of(&[Kind::Map]).shape(&Shape::new(
                "resources",
                &[
                    field(
                        "limits",
                        &Form::of(&[Kind::Map]).shape(&Shape::new(
                            "limits",
                            &[
                                field("cpus", &FLOAT, "Processors."),
                                field("memory", &BYTES_TEXT, "Memory."),
                                field("pids", &INT, "Processes and threads."),
                            ],
                        )),
                        "Upper bounds.",
                    )
                    .print(Print::Present),
                    field(
                        "reservations",
                        &Form::of(&[Kind::Map]).shape(&Shape::new(
                            "reservations",
                            &[
                                field("cpus", &FLOAT, "Processors."),
                                field("memory", &BYTES_TEXT, "Memory."),
                                field(
                                    "devices",
                                    &Form::of(&[Kind::List])
                                        .items(&Form::of(&[Kind::Map]).shape(&DEVICE_REQUEST)),
                                    "Devices.",
                                ),
                                field(
                                    "generic_resources",
                                    &Form::of(&[Kind::List]).items(
                                        &Form::of(&[Kind::Map]).shape(&Shape::new(
                                            "generic_resource",
                                            &[field(
                                                "discrete_resource_spec",
                                                &Form::of(&[Kind::Map]).shape(&Shape::new(
                                                    "discrete_resource",
                                                    &[
                                                        field("kind", &TEXT, "Kind of resource.")
                                                            .print(Print::Present),
                                                        field("value", &NUMBER, "Amount.")
                                                            .print(Print::Present),
                                                    ],
                                                )),
                                                "A countable resource.",
                                            )
                                            .print(Print::Present)],
                                        )),
                                    ),
                                    "Resources counted by the user.",
                                ),
                            ],
                        )),
                        "Amounts set aside.",
                    )
                    .print(Print::Present),
                ],
            )),
            "Limits and reservations.",
        )
        .print(Print::OrEmpty),
        field(
            "restart_policy",
            &Form::of(&[Kind::Map]).shape(&Shape::new(
                "restart_policy",
                &[
                    field("condition", &TEXT, "`none`, `on-failure` or `any`."),
                    field("delay", &DURATION, "Time before a restart.").print(Print::Present),
                    field("max_attempts", &INT, "Restarts at most.").print(Print::Present),
                    field(
                        "window",
                        &DURATION,
                        "Time after which a restart counts as successful.",
                    )
                    .print(Print::Present),
                ],
            )),
            "When containers are restarted.",
        )
        .print(Print::Present),
        field(
            "placement",
            &Form::of(&[Kind::Map]).shape(&Shape::new(
                "placement",
                &[
                    field("constraints", &TEXT_LIST, "Nodes allowed."),
                    field(
                        "preferences",
                        &Form::of(&[Kind::List]).items(&Form::of(&[Kind::Map]).shape(&Shape::new(
                            "preference",
                            &[field("spread", &TEXT, "Label that is spread over.")],
                        ))),
                        "Nodes preferred.",
                    ),
                    field("max_replicas_per_node", &INT, "Containers a node."),
                ],
            )),
            "Where containers run.",
        )
        .print(Print::OrEmpty),
        field("endpoint_mode", &TEXT, "`vip` or `dnsrr`."),
    ],
);

const HEALTHCHECK: Shape = Shape::new(
    "healthcheck",
    &[
        field(
            "test",
            &Form::of(&[Kind::Text, Kind::List])
                .format(Format::HealthTest)
                .items(&TEXT),
            "The probe: a shell command, or words that begin with CMD, CMD-SHELL or NONE.",
        )
        .merge(Merge::Replace),
        field("timeout", &DURATION, "Time after which a probe has failed.").print(Print::Present),
        field("interval", &DURATION, "Time between probes.").print(Print::Present),
        field("retries", &NUMBER, "Failures in a row that make it unhealthy.").print(Print::Present),
        field("start_period", &DURATION, "Time in which failures do not count.").print(Print::Present),
        field(
            "start_interval",
            &DURATION,
            "Time between probes in the start period.",
        )
        .print(Print::Present),
        field("disable", &BOOL, "Switches the image's check off."),
    ],
)
.extended(&[
    field(
        "x-probe",
        &Form::of(&[Kind::Map]).shape(&Shape::new(
            "probe",
            &[
                field("tcp", &PORT_OR_TEXT, "Connections are accepted at this port."),
                field(
                    "http",
                    &PORT_OR_TEXT,
                    "PORT/PATH is answered with a status from 200 to 399.",
                ),
                field("unix", &TEXT, "Connections are accepted at this socket."),
                field("file", &TEXT, "The file is there."),
                field(
                    "log",
                    &TEXT,
                    "A line with this text has been printed since the start.",
                ),
            ],
        )),
        "A probe that needs no tool in the image, in place of `test`: one of its kinds (rcompose).",
    ),
    field(
        "x-restart",
        &BOOL,
        "An unhealthy container is ended, for its restart policy to go on (rcompose).",
    ),
]);

const PORT_OR_TEXT: Form = Form::of(&[Kind::Int, Kind::Text]);

const ATTACHMENT: Shape = Shape::new(
    "attachment",
    &[
        field("aliases", &TEXT_SET, "Further names on this network.").identity(Identity::BeforeEquals),
        field("driver_opts", &OPTIONS, "Driver options."),
        field(
            "gw_priority",
            &Form::of(&[Kind::Number]),
            "The highest provides the default route.",
        ),
        field("interface_name", &TEXT, "Name of the interface."),
        field("ipv4_address", &TEXT, "Fixed IPv4 address."),
        field("ipv6_address", &TEXT, "Fixed IPv6 address."),
        field("link_local_ips", &TEXT_SET, "Link-local addresses.").identity(Identity::BeforeEquals),
        field("mac_address", &TEXT, "Fixed MAC address."),
        field("priority", &Form::of(&[Kind::Number]), "The highest is eth0."),
    ],
);

const PORT: Shape = Shape::new(
    "port",
    &[
        field("name", &TEXT, "What the port is called."),
        field("mode", &TEXT, "`ingress` or `host`."),
        field("host_ip", &TEXT, "Address of the host listened on."),
        field("target", &INT, "Port inside the container."),
        field(
            "published",
            &Form::of(&[Kind::Text, Kind::Int]).format(Format::Text),
            "Port of the host, or a range of which the first free one is taken.",
        ),
        field("protocol", &TEXT, "`tcp` or `udp`."),
        field("app_protocol", &TEXT, "What is spoken on the port."),
    ],
);

const MOUNT: Shape = Shape::new(
    "mount",
    &[
        field(
            "type",
            &TEXT.one_of(&["bind", "volume", "tmpfs", "cluster", "npipe", "image"]),
            "What is mounted.",
        )
        .required(),
        field("source", &TEXT, "Path of the host, or key of a volume."),
        field("target", &TEXT, "Path inside the container."),
        field("read_only", &BOOL, "Mounted read-only."),
        field("consistency", &TEXT, "Of no effect on Linux."),
        field(
            "bind",
            &Form::of(&[Kind::Map]).shape(&Shape::new(
                "bind",
                &[
                    field("selinux", &TEXT.one_of(&["z", "Z"]), "SELinux label."),
                    field("propagation", &TEXT, "Mount propagation."),
                    field("create_host_path", &BOOL, "Make a missing folder.").print(Print::Filled),
                    field(
                        "recursive",
                        &TEXT.one_of(&["enabled", "disabled", "writable", "readonly"]),
                        "What becomes of mounts below.",
                    ),
                ],
            )),
            "Options of a bind mount.",
        )
        .print(Print::Present),
        field(
            "volume",
            &Form::of(&[Kind::Map]).shape(&Shape::new(
                "mounted_volume",
                &[
                    field("labels", &LABELS, "Labels of an anonymous volume.").merge(Merge::Assign),
                    field(
                        "nocopy",
                        &BOOL,
                        "Do not copy the image's files into a fresh volume.",
                    ),
                    field("subpath", &TEXT, "A folder of the volume."),
                ],
            )),
            "Options of a volume.",
        )
        .print(Print::Present),
        field(
            "tmpfs",
            &Form::of(&[Kind::Map]).shape(&Shape::new(
                "mounted_tmpfs",
                &[
                    field(
                        "size",
                        &Form::of(&[Kind::Int, Kind::Text]).format(Format::Bytes).least(0),
                        "Size limit.",
                    ),
                    field(
                        "mode",
                        &Form::of(&[Kind::Number, Kind::Text]).format(Format::TmpfsMode),
                        "Mode of its root, octal.",
                    ),
                ],
            )),
            "Options of a tmpfs.",
        )
        .print(Print::Present),
        field(
            "image",
            &Form::of(&[Kind::Map]).shape(&Shape::new(
                "mounted_image",
                &[field("subpath", &TEXT, "A folder of the image.")],
            )),
            "Options of an image mount.",
        )
        .print(Print::Present),
    ],
);

const DEPENDENCY: Shape = Shape::new(
    "dependency",
    &[
        field(
            "condition",
            &TEXT.one_of(&[
                "service_started",
                "service_healthy",
                "service_completed_successfully",
            ]),
            "What must hold first.",
        )
        .required(),
        field("restart", &BOOL, "Restart along with the dependency."),
        field(
            "required",
            &BOOL,
            "`false`: only a warning when it is missing or fails.",
        )
        .print(Print::Present),
    ],
);

/// A service.
pub(super) static SERVICE: Shape = Shape::new(
    "service",
    &[
        field("profiles", &TEXT_SET, "Profiles that enable the service.").identity(Identity::BeforeEquals),
        field("annotations", &LABELS, "Annotations of the container.").merge(Merge::Assign),
        field("attach", &BOOL, "Whether `up` shows its output.").print(Print::Present),
        field(
            "build",
            &Form::of(&[Kind::Text, Kind::Map])
                .format(Format::Build)
                .shape(&BUILD),
            "How the image is built.",
        )
        .print(Print::Present),
        field(
            "develop",
            &Form::of(&[Kind::Null, Kind::Map]).shape(&Shape::new(
                "develop",
                &[field(
                    "watch",
                    &Form::of(&[Kind::List]).items(&Form::of(&[Kind::Map]).shape(&WATCH)),
                    "Files that are watched.",
                )],
            )),
            "Rules for development.",
        )
        .print(Print::Present),
        field(
            "blkio_config",
            &Form::of(&[Kind::Map]).shape(&BLKIO),
            "Block device limits.",
        )
        .print(Print::Present),
        field("cap_add", &TEXT_SET, "Capabilities added.").identity(Identity::BeforeEquals),
        field("cap_drop", &TEXT_SET, "Capabilities dropped.").identity(Identity::BeforeEquals),
        field("cgroup_parent", &TEXT, "Parent cgroup."),
        field("cgroup", &TEXT.one_of(&["host", "private"]), "Cgroup namespace."),
        field("cpu_count", &INT.least(0), "Processors."),
        field(
            "cpu_percent",
            &Form::of(&[Kind::Int, Kind::Text])
                .cast(Cast::Float)
                .least(0)
                .most(100),
            "Share of the processors.",
        ),
        field("cpu_period", &NUMBER, "CFS period."),
        field("cpu_quota", &NUMBER, "CFS quota."),
        field("cpu_rt_period", &NUMBER, "Real-time period."),
        field("cpu_rt_runtime", &NUMBER, "Real-time runtime."),
        field("cpus", &FLOAT, "Processors at most."),
        field("cpuset", &TEXT, "Processors allowed, `0-2,4`."),
        field("cpu_shares", &NUMBER, "Relative processor weight."),
        field("command", &WORDS, "Arguments, in place of the image's.")
            .merge(Merge::Replace)
            .print(Print::OrNull),
        field("configs", &GRANTS, "Configs mounted.").identity(Identity::GrantTarget("")),
        field(
            "container_name",
            &TEXT.pattern(&CONTAINER_NAME),
            "A fixed container name.",
        ),
        field(
            "credential_spec",
            &Form::of(&[Kind::Map]).shape(&Shape::new(
                "credential_spec",
                &[
                    field("config", &TEXT, "Config."),
                    field("file", &TEXT, "File."),
                    field("registry", &TEXT, "Registry key."),
                ],
            )),
            "Windows credentials.",
        )
        .print(Print::Present),
        field(
            "depends_on",
            &Form::of(&[Kind::List, Kind::Map])
                .format(Format::Dependencies)
                .items(&TEXT)
                .values(&Form::of(&[Kind::Map]).shape(&DEPENDENCY))
                .unique()
                .names(),
            "Services that come first.",
        ),
        field(
            "deploy",
            &Form::of(&[Kind::Null, Kind::Map]).shape(&DEPLOY),
            "Replicas, limits, restarts.",
        )
        .print(Print::Present),
        field("device_cgroup_rules", &TEXT_SET, "Device rules."),
        field(
            "devices",
            &Form::of(&[Kind::List]).items(&Form::of(&[Kind::Text, Kind::Map]).format(Format::Device).shape(
                &Shape::new(
                    "device",
                    &[
                        field("source", &TEXT, "Device of the host.").required(),
                        field("target", &TEXT, "Path inside the container."),
                        field("permissions", &TEXT, "`rwm`."),
                    ],
                ),
            )),
            "Devices.",
        )
        .identity(Identity::Target),
        field("dns", &TEXTS, "Name servers.").identity(Identity::BeforeEquals),
        field("dns_opt", &TEXT_SET, "Resolver options.").identity(Identity::BeforeEquals),
        field("dns_search", &TEXTS, "Search domains.").identity(Identity::BeforeEquals),
        field("domainname", &TEXT, "NIS domain name."),
        field("entrypoint", &WORDS, "Program, in place of the image's.")
            .merge(Merge::Replace)
            .print(Print::OrNull),
        field(
            "provider",
            &Form::of(&[Kind::Map]).shape(&Shape::new(
                "provider",
                &[
                    field("type", &TEXT, "Which provider.").required(),
                    field(
                        "options",
                        &Form::of(&[Kind::Map]).values(
                            &Form::of(&[Kind::Text, Kind::Bool, Kind::Number, Kind::List])
                                .format(Format::AnyTexts)
                                .items(
                                    &Form::of(&[Kind::Text, Kind::Bool, Kind::Number]).format(Format::Text),
                                ),
                        ),
                        "Its options.",
                    ),
                ],
            )),
            "An external provider.",
        )
        .print(Print::Present),
        field("environment", &ASSIGNMENTS, "Environment.").merge(Merge::Assign),
        field(
            "env_file",
            &Form::of(&[Kind::Text, Kind::List])
                .format(Format::EnvFiles)
                .items(&Form::of(&[Kind::Text, Kind::Map]).shape(&Shape::new(
                    "env_file",
                    &[
                        field("path", &TEXT, "The file.").required(),
                        field("format", &TEXT, "`raw`: nothing is interpreted."),
                        field("required", &BOOL, "`false`: it may be missing.").print(Print::Present),
                    ],
                ))),
            "Files with environment variables.",
        )
        .identity(Identity::FilePath),
        field("expose", &LOOSE_SET, "Ports that are listened on.").identity(Identity::Whole),
        field(
            "extends",
            &Form::of(&[Kind::Text, Kind::Map])
                .format(Format::Extends)
                .shape(&Shape::new(
                    "extends",
                    &[
                        field("file", &TEXT, "The file it is in; default: this one."),
                        field("service", &TEXT, "The service that is built upon.").required(),
                    ],
                )),
            "A service this one builds upon.",
        )
        .print(Print::Present),
        field("external_links", &TEXT_SET, "Links to other stacks' containers."),
        field("extra_hosts", &HOSTS, "Names for /etc/hosts.").identity(Identity::Whole),
        field("group_add", &LOOSE_SET, "Further groups."),
        field(
            "gpus",
            &Form::of(&[Kind::Text, Kind::List])
                .format(Format::Gpus)
                .one_of(&["all"])
                .items(&Form::of(&[Kind::Map]).shape(&GPU_REQUEST)),
            "GPUs.",
        ),
        field("hostname", &TEXT, "Host name inside the container."),
        field(
            "healthcheck",
            &Form::of(&[Kind::Map]).shape(&HEALTHCHECK),
            "How health is checked.",
        )
        .print(Print::Present),
        field(
            "image",
            &TEXT,
            "The image: a reference, or oci:, oci-archive:, docker-archive: or rootfs: and a path.",
        ),
        field("init", &BOOL, "An init process as process 1.").print(Print::Present),
        field("ipc", &TEXT, "IPC namespace."),
        field("isolation", &TEXT, "Isolation technology."),
        field("labels", &LABELS, "Labels of the container.").merge(Merge::Assign),
        field("label_file", &TEXTS, "Files with labels.").identity(Identity::Whole),
        field("links", &TEXT_SET, "Links to other services.").identity(Identity::BeforeEquals),
        field(
            "logging",
            &Form::of(&[Kind::Map]).shape(&Shape::new(
                "logging",
                &[
                    field("driver", &TEXT, "Log driver."),
                    field(
                        "options",
                        &Form::of(&[Kind::Map]).format(Format::Options).values(&LOG_OPTION),
                        "Its options.",
                    ),
                ],
            )),
            "Where output goes.",
        )
        .merge(Merge::Logging)
        .print(Print::Present),
        field("mem_limit", &BYTES, "Memory at most."),
        field(
            "mem_reservation",
            &Form::of(&[Kind::Text, Kind::Int]).format(Format::Bytes),
            "Memory set aside.",
        ),
        field(
            "memswap_limit",
            &BYTES,
            "Memory and swap at most; -1 is unlimited swap.",
        ),
        field(
            "mem_swappiness",
            &Form::of(&[Kind::Int, Kind::Text]).format(Format::Bytes),
            "How readily memory is swapped.",
        ),
        field("mac_address", &TEXT, "MAC address."),
        field(
            "models",
            &Form::of(&[Kind::List, Kind::Map])
                .format(Format::Names)
                .items(&TEXT)
                .values(&Form::of(&[Kind::Null, Kind::Map]).shape(&Shape::new(
                    "service_model",
                    &[
                        field("endpoint_var", &TEXT, "Variable for its address."),
                        field("model_var", &TEXT, "Variable for its name."),
                    ],
                )))
                .unique()
                .names(),
            "Models used.",
        ),
        field("network_mode", &TEXT, "`none`, `host` or `service:NAME`."),
        field(
            "networks",
            &Form::of(&[Kind::List, Kind::Map])
                .format(Format::Names)
                .items(&TEXT)
                .values(&Form::of(&[Kind::Null, Kind::Map]).shape(&ATTACHMENT))
                .unique()
                .names(),
            "Networks the service is on.",
        ),
        field("oom_kill_disable", &BOOL, "Never killed for memory."),
        field(
            "oom_score_adj",
            &INT.least(-1000).most(1000),
            "Preference of the kernel's memory killer.",
        ),
        field("pid", &Form::of(&[Kind::Null, Kind::Text]), "Process namespace."),
        field(
            "pids_limit",
            &NUMBER,
            "Processes and threads at most; -1 is unlimited.",
        ),
        field("platform", &TEXT, "Operating system and processor."),
        field(
            "ports",
            &Form::of(&[Kind::List])
                .format(Format::Ports)
                .items(&Form::of(&[Kind::Number, Kind::Text, Kind::Map]).shape(&PORT))
                .unique(),
            "Published ports.",
        )
        .identity(Identity::Port),
        field("privileged", &BOOL, "All privileges."),
        field(
            "pull_policy",
            &TEXT.pattern(&PULL_POLICY),
            "When the image is fetched.",
        ),
        field(
            "pull_refresh_after",
            &TEXT,
            "Age after which the image is fetched again.",
        ),
        field("read_only", &BOOL, "Root file system read-only."),
        field(
            "restart",
            &TEXT,
            "`no`, `always`, `on-failure[:N]` or `unless-stopped`.",
        ),
        field("runtime", &TEXT, "OCI runtime."),
        field("scale", &INT, "How many containers.").print(Print::Present),
        field("secrets", &GRANTS, "Secrets mounted.").identity(Identity::GrantTarget("/run/secrets")),
        field("security_opt", &TEXT_SET, "Security options."),
        field("shm_size", &BYTES, "Size of /dev/shm."),
        field("stdin_open", &BOOL, "Standard input kept open."),
        field(
            "stop_grace_period",
            &DURATION,
            "Time between the stop signal and SIGKILL.",
        )
        .print(Print::Present),
        field("stop_signal", &TEXT, "The signal that stops it."),
        field(
            "storage_opt",
            &Form::of(&[Kind::Map]).format(Format::Options).values(&SCALAR),
            "Storage driver options.",
        ),
        field("sysctls", &LABELS, "Kernel parameters.").merge(Merge::Assign),
        field("tmpfs", &TEXTS, "tmpfs mounts, `PATH[:OPTIONS]`.").identity(Identity::BeforeEquals),
        field("tty", &BOOL, "A pseudo-terminal."),
        field("ulimits", &ULIMITS, "Resource limits.").merge(Merge::Assign),
        field(
            "use_api_socket",
            &Form::of(&[Kind::Bool]),
            "The engine's socket inside.",
        ),
        field("user", &TEXT, "`USER[:GROUP]`."),
        field("userns_mode", &TEXT, "User namespace."),
        field("uts", &TEXT, "UTS namespace."),
        field(
            "volumes",
            &Form::of(&[Kind::List])
                .items(
                    &Form::of(&[Kind::Text, Kind::Map])
                        .format(Format::Mount)
                        .shape(&MOUNT),
                )
                .unique(),
            "Mounts.",
        )
        .identity(Identity::Target),
        field("volumes_from", &TEXT_SET, "Mounts of another service."),
        field("working_dir", &TEXT, "Working directory."),
        field(
            "pre_start",
            &Form::of(&[Kind::List]).items(&Form::of(&[Kind::Map]).shape(&HOOK_PRE_START)),
            "Run before the start.",
        ),
        field("post_start", &HOOKS, "Run after the start."),
        field("pre_stop", &HOOKS, "Run before the stop."),
    ],
);

const EXTERNAL: Form = Form::of(&[Kind::Bool, Kind::Text, Kind::Map])
    .cast(Cast::Bool)
    .shape(&Shape::new(
        "external",
        &[field(
            "name",
            &TEXT,
            "Deprecated: set `name` and `external: true`.",
        )],
    ));

const NETWORK: Shape = Shape::new(
    "network",
    &[
        field("name", &TEXT, "Name on the host."),
        field("driver", &TEXT, "`bridge`."),
        field("driver_opts", &OPTIONS, "Driver options."),
        field(
            "ipam",
            &Form::of(&[Kind::Map]).shape(&Shape::new(
                "ipam",
                &[
                    field("driver", &TEXT, "`default`."),
                    field(
                        "config",
                        &Form::of(&[Kind::List]).items(&Form::of(&[Kind::Map]).shape(&Shape::new(
                            "pool",
                            &[
                                field("subnet", &TEXT, "The subnet, `172.28.0.0/16`."),
                                field("gateway", &TEXT, "The bridge's address."),
                                field("ip_range", &TEXT, "Where containers get addresses from."),
                                field(
                                    "aux_addresses",
                                    &Form::of(&[Kind::Map]).values(&TEXT),
                                    "Addresses that are taken.",
                                ),
                            ],
                        ))),
                        "Address pools.",
                    )
                    .merge(Merge::Pools),
                    field(
                        "options",
                        &Form::of(&[Kind::Map]).values(&TEXT),
                        "Driver options.",
                    ),
                ],
            )),
            "Addresses.",
        )
        .print(Print::OrEmpty),
        field("external", &EXTERNAL, "Made by someone else."),
        field("internal", &BOOL, "No way out."),
        field("attachable", &BOOL, "Other containers may be attached."),
        field("labels", &LABELS, "Labels.").merge(Merge::Assign),
        field("enable_ipv4", &BOOL, "IPv4.").print(Print::Present),
        field("enable_ipv6", &BOOL, "IPv6 as well.").print(Print::Present),
    ],
);

const VOLUME: Shape = Shape::new(
    "volume",
    &[
        field("name", &TEXT, "Name on the host."),
        field("driver", &TEXT, "`local`."),
        field("driver_opts", &OPTIONS, "Driver options."),
        field("external", &EXTERNAL, "Made by someone else."),
        field("labels", &LABELS, "Labels.").merge(Merge::Assign),
    ],
);

const CONFIG: Shape = Shape::new(
    "config",
    &[
        field("name", &TEXT, "Name."),
        field("file", &TEXT, "The file."),
        field("environment", &TEXT, "The variable."),
        field("content", &TEXT, "The text."),
        field("external", &EXTERNAL, "Made by someone else."),
        field("labels", &LABELS, "Labels.").merge(Merge::Assign),
        field("template_driver", &TEXT, "Template driver."),
    ],
);

const SECRET: Shape = Shape::new(
    "secret",
    &[
        field("name", &TEXT, "Name."),
        field("file", &TEXT, "The file."),
        field("environment", &TEXT, "The variable."),
        field("external", &EXTERNAL, "Made by someone else."),
        field("labels", &LABELS, "Labels.").merge(Merge::Assign),
        field("driver", &TEXT, "Driver."),
        field("driver_opts", &OPTIONS, "Driver options."),
        field("template_driver", &TEXT, "Template driver."),
    ],
);

const MODEL: Shape = Shape::new(
    "model",
    &[
        field("name", &TEXT, "Name."),
        field("model", &TEXT, "Reference of the model.").required(),
        field("context_size", &WHOLE, "Context size."),
        field("runtime_flags", &TEXT_LIST, "Flags of its runtime."),
    ],
);

const INCLUDE: Shape = Shape::new(
    "include",
    &[
        field("path", &TEXTS, "The file, and its overrides."),
        field("env_file", &TEXTS, "Its environment files."),
        field("project_directory", &TEXT, "What its paths are relative to."),
    ],
);

const fn resources(shape: &'static Form) -> Form {
    Form::of(&[Kind::Map]).values(shape).names()
}

const NETWORK_FORM: Form = Form::of(&[Kind::Map, Kind::Null])
    .format(Format::Resource)
    .shape(&NETWORK);
const VOLUME_FORM: Form = Form::of(&[Kind::Map, Kind::Null])
    .format(Format::Resource)
    .shape(&VOLUME);
const CONFIG_FORM: Form = Form::of(&[Kind::Map]).format(Format::Resource).shape(&CONFIG);
const SECRET_FORM: Form = Form::of(&[Kind::Map]).format(Format::Resource).shape(&SECRET);
const SERVICE_FORM: Form = Form::of(&[Kind::Map]).shape(&SERVICE);

/// A whole stack file.
pub(super) static STACK: Shape = Shape::new("stack", ROOT);

const ROOT: &[Field] = &[
    field("version", &TEXT, "Obsolete and ignored."),
    field("name", &TEXT, "Project name."),
    field(
        "include",
        &Form::of(&[Kind::List]).items(&Form::of(&[Kind::Text, Kind::Map]).shape(&INCLUDE)),
        "Other stacks that are part of this one.",
    ),
    field("services", &resources(&SERVICE_FORM), "Services.").print(Print::Present),
    field(
        "models",
        &resources(&Form::of(&[Kind::Map]).shape(&MODEL)),
        "Models.",
    ),
    field("networks", &resources(&NETWORK_FORM), "Networks."),
    field("volumes", &resources(&VOLUME_FORM), "Named volumes."),
    field("secrets", &resources(&SECRET_FORM), "Secrets."),
    field("configs", &resources(&CONFIG_FORM), "Configs."),
];

/// What a stack file is.
pub static STACK_FORM: Form = Form::of(&[Kind::Map]).shape(&STACK);
