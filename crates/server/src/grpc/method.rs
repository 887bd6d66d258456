//! Every gRPC method that is served.

/// How many messages go each way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Unary,
    ServerStream,
    BidiStream,
}

impl Kind {
    /// Its name in metrics.
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::Unary => "unary",
            Self::ServerStream => "server_stream",
            Self::BidiStream => "bidi_stream",
        }
    }
}

/// What is known of a method.
#[derive(Debug)]
pub(crate) struct Info {
    pub(crate) service: &'static str,
    pub(crate) name: &'static str,
    pub(crate) path: &'static str,
    pub(crate) kind: Kind,
}

macro_rules! methods {
    ($($id:ident $service:literal $name:literal $kind:ident;)*) => {
        /// A method, by its place in [`METHODS`].
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Method {
            $($id,)*
        }

        /// Every method, by its number.
        pub(crate) const METHODS: &[Info] = &[$(Info {
            service: $service,
            name: $name,
            path: concat!("/", $service, "/", $name),
            kind: Kind::$kind,
        }),*];

        impl Method {
            /// Every method.
            #[cfg(test)]
            pub(crate) const ALL: &[Self] = &[$(Self::$id),*];

            /// The method of a path.
            pub(crate) fn find(path: &str) -> Option<Self> {
                match path {
                    $(concat!("/", $service, "/", $name) => Some(Self::$id),)*
                    _ => None,
                }
            }
        }
    };
}

methods! {
    Range "etcdserverpb.KV" "Range" Unary;
    RangeStream "etcdserverpb.KV" "RangeStream" ServerStream;
    Put "etcdserverpb.KV" "Put" Unary;
    DeleteRange "etcdserverpb.KV" "DeleteRange" Unary;
    Txn "etcdserverpb.KV" "Txn" Unary;
    Compact "etcdserverpb.KV" "Compact" Unary;
    Watch "etcdserverpb.Watch" "Watch" BidiStream;
    LeaseGrant "etcdserverpb.Lease" "LeaseGrant" Unary;
    LeaseRevoke "etcdserverpb.Lease" "LeaseRevoke" Unary;
    LeaseKeepAlive "etcdserverpb.Lease" "LeaseKeepAlive" BidiStream;
    LeaseTimeToLive "etcdserverpb.Lease" "LeaseTimeToLive" Unary;
    LeaseLeases "etcdserverpb.Lease" "LeaseLeases" Unary;
    MemberAdd "etcdserverpb.Cluster" "MemberAdd" Unary;
    MemberRemove "etcdserverpb.Cluster" "MemberRemove" Unary;
    MemberUpdate "etcdserverpb.Cluster" "MemberUpdate" Unary;
    MemberList "etcdserverpb.Cluster" "MemberList" Unary;
    MemberPromote "etcdserverpb.Cluster" "MemberPromote" Unary;
    Alarm "etcdserverpb.Maintenance" "Alarm" Unary;
    Status "etcdserverpb.Maintenance" "Status" Unary;
    Defragment "etcdserverpb.Maintenance" "Defragment" Unary;
    Hash "etcdserverpb.Maintenance" "Hash" Unary;
    HashKv "etcdserverpb.Maintenance" "HashKV" Unary;
    Snapshot "etcdserverpb.Maintenance" "Snapshot" ServerStream;
    MoveLeader "etcdserverpb.Maintenance" "MoveLeader" Unary;
    Downgrade "etcdserverpb.Maintenance" "Downgrade" Unary;
    AuthEnable "etcdserverpb.Auth" "AuthEnable" Unary;
    AuthDisable "etcdserverpb.Auth" "AuthDisable" Unary;
    AuthStatus "etcdserverpb.Auth" "AuthStatus" Unary;
    Authenticate "etcdserverpb.Auth" "Authenticate" Unary;
    UserAdd "etcdserverpb.Auth" "UserAdd" Unary;
    UserGet "etcdserverpb.Auth" "UserGet" Unary;
    UserList "etcdserverpb.Auth" "UserList" Unary;
    UserDelete "etcdserverpb.Auth" "UserDelete" Unary;
    UserChangePassword "etcdserverpb.Auth" "UserChangePassword" Unary;
    UserGrantRole "etcdserverpb.Auth" "UserGrantRole" Unary;
    UserRevokeRole "etcdserverpb.Auth" "UserRevokeRole" Unary;
    RoleAdd "etcdserverpb.Auth" "RoleAdd" Unary;
    RoleGet "etcdserverpb.Auth" "RoleGet" Unary;
    RoleList "etcdserverpb.Auth" "RoleList" Unary;
    RoleDelete "etcdserverpb.Auth" "RoleDelete" Unary;
    RoleGrantPermission "etcdserverpb.Auth" "RoleGrantPermission" Unary;
    RoleRevokePermission "etcdserverpb.Auth" "RoleRevokePermission" Unary;
    Lock "v3lockpb.Lock" "Lock" Unary;
    Unlock "v3lockpb.Lock" "Unlock" Unary;
    Campaign "v3electionpb.Election" "Campaign" Unary;
    Proclaim "v3electionpb.Election" "Proclaim" Unary;
    Leader "v3electionpb.Election" "Leader" Unary;
    Observe "v3electionpb.Election" "Observe" ServerStream;
    Resign "v3electionpb.Election" "Resign" Unary;
    HealthCheck "grpc.health.v1.Health" "Check" Unary;
    HealthList "grpc.health.v1.Health" "List" Unary;
    HealthWatch "grpc.health.v1.Health" "Watch" ServerStream;
}

impl Method {
    /// What is known of it.
    pub(crate) const fn info(self) -> &'static Info {
        &METHODS[self as usize]
    }
}

/// What etcd says of a path that nobody serves.
pub(crate) fn unknown(path: &str) -> String {
    let Some((service, name)) = path.strip_prefix('/').and_then(|rest| rest.rsplit_once('/'))
    else {
        return format!("malformed method name: {path:?}");
    };
    if METHODS.iter().any(|method| method.service == service) {
        format!("unknown method {name} for service {service}")
    } else {
        format!("unknown service {service}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_to_methods_and_back() {
        for (number, method) in Method::ALL.iter().enumerate() {
            assert_eq!(*method as usize, number);
            assert_eq!(Method::find(method.info().path), Some(*method));
        }
        assert_eq!(Method::find("/etcdserverpb.KV/range"), None);
    }

    #[test]
    fn unknown_paths_are_told_in_grpcs_words() {
        for (path, told) in [
            ("/etcdserverpb.KV/Nonsense", "unknown method Nonsense for service etcdserverpb.KV"),
            ("/etcdserverpb.KV/", "unknown method  for service etcdserverpb.KV"),
            ("/nonsense.Service/Range", "unknown service nonsense.Service"),
            ("/a/b/c", "unknown service a/b"),
            ("//", "unknown service "),
            ("/etcdserverpb.KV", "malformed method name: \"/etcdserverpb.KV\""),
            ("/", "malformed method name: \"/\""),
        ] {
            assert_eq!(unknown(path), told);
        }
    }
}
