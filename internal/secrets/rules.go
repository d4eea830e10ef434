package secrets

import "slices"

// rules are the common places of secrets. The first rule that finds a secret in a file counts, and
// without one the first that finds what is warned of.
var rules = slices.Concat(systemRules, identityRules, keyRules, clusterRules, serviceRules, toolRules, cloudRules, networkRules)

// systemRules are about accounts and the first files of an operating system.
var systemRules = slices.Concat(
	patterns("etc/shadow* etc/gshadow* etc/passwd etc/passwd-* etc/passwd.* etc/group var/backups/*shadow* var/backups/passwd* root/*shadow*", PasswordHash, hashes),
	patterns("etc/security/opasswd etc/security/opasswd.old", PasswordHash, oldHashes),
	patterns("boot/grub*/user.cfg boot/grub*/grub.cfg etc/grub.d/*", PasswordHash, grubHash),
	patterns("**/.htpasswd **/htpasswd etc/*/passwd", PasswordHash, lines("a hash", `^[^:#\s]+:(\$|\{\w+\})[^\s:]+`)),
	patterns("etc/fstab etc/fstab.d/* etc/auto.* etc/auto_* etc/auto.master.d/* etc/autofs/* etc/systemd/system/*.mount", Password, mountOption),
	patterns("etc/davfs2/secrets **/.davfs2/secrets", Password, lines("a password", `^\s*[^#\s]\S*\s+\S+\s+\S`)),
	patterns("var/lib/systemd/random-seed var/lib/urandom/random-seed var/lib/random-seed var/lib/seedrng/* boot/loader/random-seed", RandomSeed, whole),
	patterns("var/lib/systemd/credential.secret etc/credstore*/* usr/lib/credstore*/*", ServiceKey, whole),
	patterns("etc/luks/* etc/cryptsetup-keys.d/*", ServiceKey, whole),
	patterns("etc/zfs/keys/*", ServiceKey, whole),
)

// identityRules are about files that say which machine this is. Machines make them when they are
// installed, or at their first boot.
var identityRules = slices.Concat(
	patterns("etc/ssh/ssh_host_*key etc/dropbear/dropbear_*_host_key", HostKey, keyFile),
	patterns("etc/machine-id var/lib/dbus/machine-id", MachineID, machineID),
	patterns("etc/nvme/hostnqn etc/nvme/hostid", StorageIdentity, anyLine),
	patterns("etc/iscsi/initiatorname.iscsi", StorageIdentity, setting("InitiatorName")),
	patterns("etc/hostid var/lib/NetworkManager/secret_key etc/dhcpcd.duid var/lib/dhcpcd/duid var/lib/dhcpcd/secret var/lib/dhcpcd5/duid", Identity, whole),
	patterns("var/lib/dhcp/dhclient*.leases var/lib/dhclient/dhclient*.leases var/lib/NetworkManager/*.lease", Identity, lines("`default-duid`, `ADDRESS`", `^\s*(default-duid\s|lease\s|ADDRESS=)`)),
	patterns("var/lib/snmp/snmpd.conf var/lib/net-snmp/snmpd.conf", Identity, word("oldEngineID|exactEngineID")),
	patterns("etc/brlapi.key var/lib/glusterd/glusterd.info etc/salt/minion_id var/lib/docker/engine-id var/lib/cloud/data/instance-id var/lib/zerotier-one/identity.public", Identity, whole),
)

// keyRules are about keys with usual names. Others are found by their content.
var keyRules = slices.Concat(
	patterns("**/authorized_keys **/authorized_keys2 etc/ssh/authorized_keys.d/*", AuthorizedKeys, anyLine),
	patterns("**/*.keytab", Keytab, begins("a keytab", "\x05")),
	patterns("etc/ssl/private/* etc/pki/tls/private/* etc/pki/*/*.key **/*.der", PrivateKey, derKey),
	patterns("**/*.p12 **/*.pfx", PrivateKey, begins("a PKCS 12 file", "\x30")),
	patterns("**/*.jks **/*.jceks **/*.keystore **/*.ks **/keystore", PrivateKey, keyStore),
	patterns("**/private-keys-v1.d/*.key **/.gnupg/secring.gpg", PrivateKey, whole),
	patterns("etc/wireguard/*.conf etc/systemd/network/*.netdev", PrivateKey, setting("PrivateKey|PresharedKey")),
	patterns("etc/docker/key.json var/lib/zerotier-one/identity.secret var/lib/tailscale/tailscaled.state", PrivateKey, whole),
)

// clusterRules are about the software of a cluster.
var clusterRules = slices.Concat(
	patterns("**/munge.key **/munge.key.* **/munge.key-* **/munge.key~", MungeKey, whole),
	patterns("**/slurm.key **/slurm.jwks **/jwt_hs256.key etc/slurm*/jwt*.key var/spool/slurm*/jwt*.key", ServiceKey, whole),
	patterns("**/slurmdbd.conf", Password, setting("StoragePass")),
	patterns("etc/ceph/*.keyring var/lib/ceph/*/*/keyring", ServiceKey, setting("key")),
	patterns("etc/corosync/authkey etc/pacemaker/authkey etc/booth/*.key etc/ha.d/authkeys etc/pacemaker_remote/authkey etc/cluster/fence_xvm.key", ServiceKey, whole),
	patterns("var/lib/pcsd/pcs_users.conf var/lib/pcsd/known-hosts", Token, member("token|passwd")),
	patterns("**/keepalived.conf etc/keepalived/*.conf etc/keepalived/*/*.conf", Password, word("auth_pass")),
	patterns("etc/kubernetes/*.conf **/.kube/config etc/rancher/k3s/k3s.yaml", Token, kubeconfig),
	patterns("etc/rancher/*/config.yaml etc/rancher/*/config.yaml.d/*", Token, setting("token|agent-token")),
	patterns("var/lib/rancher/*/server/token var/lib/rancher/*/server/node-token", Token, whole),
	patterns("etc/freeipmi/*.conf **/.freeipmi/*.conf **/powerman.conf", Password, word("password|k_g")),
	patterns("**/.erlang.cookie", ServiceKey, whole),
	patterns("etc/beegfs/connauthfile etc/beegfs/conn.auth etc/glusterfs/*.key", ServiceKey, whole),
)

// serviceRules are about daemons and what they ask.
var serviceRules = slices.Concat(
	patterns("var/lib/samba/private/secrets.tdb var/lib/samba/private/*.keytab", ServiceKey, whole),
	patterns("etc/ldap.secret etc/*ldap.secret", Password, whole),
	patterns("**/nslcd.conf etc/*ldap.conf etc/ldap/ldap.conf etc/openldap/ldap.conf", Password, word("bindpw|rootpwmodpw|tls_reqpw")),
	patterns("**/slapd.conf", Password, word("rootpw")),
	patterns("**/sssd.conf etc/sssd/conf.d/*", Password, setting("ldap_default_authtok")),
	patterns("**/ipsec.secrets etc/ipsec.d/*.secrets etc/strongswan/ipsec.secrets", Password, lines("a secret", `(?i)^[^#]*:\s*(PSK|XAUTH|EAP|NTLM|PIN)\s.*\S|^[^#]*:\s*(RSA|ECDSA|P12|PKCS8|BLISS)\s+\S+\s+"?[^\s"#%]`)),
	patterns("**/swanctl.conf etc/swanctl/conf.d/*", Password, setting(`secret`)),
	patterns("**/snmpd.conf **/snmptrapd.conf var/lib/snmp/*.conf var/lib/net-snmp/*.conf", Password, either(
		lines("`createUser` with a password", `(?i)^\s*createUser\s+(-e\s+\S+\s+)?\S+\s+(MD5|SHA\S*)\s+\S`), word("usmUser"), word("rwcommunity6?"))),
	patterns("**/snmp.conf", Password, word("defPassphrase|defAuthPassphrase|defPrivPassphrase|defAuthLocalizedKey|defPrivLocalizedKey")),
	patterns("**/rndc.key etc/bind/*.key etc/named*.key etc/dhcp/*.key", ServiceKey, word("secret")),
	patterns("etc/ppp/*-secrets", Password, lines("a third word", `^\s*[^#\s]\S*\s+\S+\s+("[^"*][^"]*"|[^\s"*#-]\S*)`)),
	patterns("etc/iscsi/iscsid.conf var/lib/iscsi/nodes/*/*/* etc/iscsi/nodes/*/*/*", Password, settings("`…password`", `[^\s#]*password\S*`)),
	patterns("etc/tgt/*.conf etc/tgt/conf.d/*", Password, word("incominguser|outgoinguser")),
	patterns("etc/target/saveconfig.json etc/rtslib-fb-target/saveconfig.json", Password, member("chap_password|chap_mutual_password")),
	patterns("etc/ntp/keys etc/ntp.keys etc/chrony.keys etc/chrony/chrony.keys", ServiceKey, lines("a key", `^\s*[0-9]+\s+\S+`)),
	patterns("etc/postfix/sasl_passwd etc/postfix/sasl/* etc/exim4/passwd.client etc/exim4/passwd", Password, lines("a password", `^[^#\s].*[\s:]\S+:\S`)),
	patterns("**/.msmtprc **/msmtprc **/.fetchmailrc etc/fetchmailrc", Password, lines("`password`", `(?i)\bpassw(or)?d\s+["']?[^\s"']`)),
	patterns("etc/ssmtp/ssmtp.conf", Password, setting("AuthPass")),
	patterns("etc/nut/upsd.users etc/ups/upsd.users", Password, setting("password")),
	// The secret of the examples is for clients on the same host.
	patterns("etc/raddb/clients.conf etc/freeradius/*/clients.conf", Password, lines("`secret`", `^\s*secret\s*=\s*("?[^"\s$t]|t[^e\s]|te[^s\s]|testing[^1\s]|testing123\S)`)),
	patterns("etc/redis/*.conf etc/redis.conf", Password, word("requirepass|masterauth")),
	patterns("etc/zabbix/*.psk etc/openvpn/*.key etc/openvpn/*/*.key", ServiceKey, whole),
	patterns("etc/krb5kdc/stash var/lib/krb5kdc/* var/kerberos/krb5kdc/.k5* etc/krb5kdc/.k5*", ServiceKey, whole),
)

// toolRules are about tools that store credentials.
var toolRules = slices.Concat(
	patterns("**/.netrc etc/apt/auth.conf etc/apt/auth.conf.d/*", Password, netrc),
	patterns("**/.pgpass", Password, lines("a password", `^[^#].*:[^:]+$`)),
	patterns("**/.my.cnf etc/mysql/debian.cnf", Password, setting("password")),
	patterns("etc/apt/sources.list etc/apt/sources.list.d/* etc/apt/apt.conf.d/* etc/zypp/repos.d/*", Password, urlPassword),
	patterns("etc/yum.repos.d/* etc/yum.conf etc/dnf/dnf.conf", Password, repoPassword),
	patterns("etc/zypp/credentials.d/*", Password, setting("password")),
	// Files that a build writes from its recipe: the agent's configuration, and the recipe
	// itself after %post.
	patterns("etc/bootstrap-yum.conf", RecipePassword, repoPassword),
	patterns(".singularity.d/Singularity .singularity.d/bootstrap_history/* .singularity.d/labels.json", RecipePassword, recipePassword),
	patterns("etc/environment", Password, either(urlPassword, environment)),
	patterns("**/.env **/.env.* **/*.env etc/default/* etc/sysconfig/* etc/environment.d/*", Password, environment),
	patterns("etc/pip.conf **/.pip/pip.conf **/pip/pip.conf", Password, urlPassword),
	patterns("**/.pypirc", Password, setting("password")),
	patterns("**/.git-credentials **/.config/git/credentials **/.gitconfig", Password, urlPassword),
	patterns("**/.npmrc etc/npmrc", Token, settings("`_authToken`, `_password`, `_auth`", `[^\s#;]*(_authToken|_password|_auth)`)),
	patterns("**/.cargo/credentials*", Token, setting("token")),
	patterns("**/.m2/settings.xml **/.m2/settings-security.xml", Password, lines("`<password>`", `<(password|master|passphrase)>\s*[^<\s$]`)),
	patterns("**/.gradle/gradle.properties", Password, environment),
	patterns("**/.composer/auth.json **/.config/composer/auth.json", Token, lines("a token", `"(password|token|[a-z0-9.-]+\.[a-z]+)"\s*:\s*"[^"]`)),
	patterns("**/.docker/config.json **/.dockercfg **/containers/auth.json **/.singularity/docker-config.json **/.apptainer/docker-config.json", Token, member("auth|identitytoken|registrytoken")),
	patterns("**/.ansible/vault_pass* **/.vault_pass* **/.vault-password*", Password, anyLine),
)

// cloudRules are about clouds and services that are asked over the network.
var cloudRules = slices.Concat(
	patterns("**/.aws/credentials **/.aws/config", Token, setting("aws_secret_access_key|aws_session_token")),
	patterns("**/gcloud/application_default_credentials.json", Token, member("refresh_token|private_key")),
	patterns("**/gcloud/credentials.db **/gcloud/access_tokens.db", Token, whole),
	patterns("**/.azure/accessTokens.json **/.azure/msal_token_cache.* **/.azure/service_principal_entries.*", Token, whole),
	patterns("**/clouds.yaml **/secure.yaml", Token, setting("password|application_credential_secret|token")),
	patterns("**/.config/doctl/config.yaml", Token, setting("access-token")),
	patterns("**/.config/gh/hosts.yml", Token, setting("oauth_token")), patterns("**/.config/glab-cli/config.yml", Token, setting("token")),
	patterns("**/.vault-token", Token, whole), patterns("**/.terraform.d/credentials.tfrc.json", Token, member("token")),
	patterns("**/terraform.tfstate", Password, member("password|secret|secret_key|access_key|token|private_key|private_key_pem")),
	patterns("**/.s3cfg **/.boto **/rclone.conf", Token, setting("secret_key|gs_secret_access_key|aws_secret_access_key|secret_access_key|pass|token|client_secret")),
	patterns("**/.passwd-s3fs etc/passwd-s3fs", Token, anyLine), patterns("**/.mc/config.json", Token, member("secretKey")),
	patterns("**/.huggingface/token **/huggingface/token **/huggingface/stored_tokens", Token, anyLine),
	patterns("**/.kaggle/kaggle.json", Token, member("key")), patterns("**/.ngc/config", Token, setting("apikey")),
	patterns("**/.claude/.credentials.json **/.codex/auth.json **/github-copilot/apps.json **/github-copilot/hosts.json", Token,
		member("accessToken|refreshToken|access_token|refresh_token|OPENAI_API_KEY|oauth_token")),
)

// networkRules are about connections.
var networkRules = slices.Concat(
	patterns("etc/NetworkManager/system-connections/*", WiFiKey, settings("`psk`, `wep-key`, `password`", `psk|wep-key\d|password|private-key-password|leap-password`)),
	patterns("etc/wpa_supplicant/*.conf etc/wpa_supplicant.conf", WiFiKey, settings("`psk`, `password`, `wep_key`, `sae_password`", `psk|password|wep_key\d|sae_password`)),
	patterns("etc/netplan/*", WiFiKey, setting("password|psk")),
	patterns("var/lib/iwd/*", WiFiKey, setting("Passphrase|PreSharedKey|EAP-Password")),
)
