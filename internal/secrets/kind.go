package secrets

// Kind is a kind of secret.
type Kind string

// These are the kinds of secrets.
const (
	HostKey         Kind = "ssh-host-key"
	PrivateKey      Kind = "private-key"
	PasswordHash    Kind = "password-hash"
	Password        Kind = "password"
	RecipePassword  Kind = "recipe-password"
	Token           Kind = "token"
	MungeKey        Kind = "munge-key"
	ServiceKey      Kind = "service-key"
	Keytab          Kind = "keytab"
	WiFiKey         Kind = "wifi-key"
	RandomSeed      Kind = "random-seed"
	MachineID       Kind = "machine-id"
	StorageIdentity Kind = "storage-identity"
	Identity        Kind = "identity"
	AuthorizedKeys  Kind = "authorized-keys"
)

// text describes a kind.
type text struct {
	name, why string
	fix       string // FILE stands for the path
	warning   bool   // not a secret, but seldom meant to be in an image
	// remove is the shell command that removes what a machine made for itself; FILE stands for the
	// path. Empty: a machine does not make it.
	remove string
}

// rm removes a file that each machine makes anew.
const rm = "rm -f FILE"

// afterBoot is how machines get what is in neither an image nor a layer.
const afterBoot = "remove it in %post, and copy it to the nodes when they are up (docs/security.md)"

var texts = map[Kind]text{
	HostKey: {name: "ssh host key", why: "if all nodes have one key, each node can impersonate every other",
		fix: "remove it at the end of %post (" + rm + "), and let each node make its own at boot", remove: rm},
	PrivateKey: {name: "private key", why: "everyone who reads the image can use it", fix: afterBoot},
	PasswordHash: {name: "password hash", why: "everyone who reads the image can try passwords against it without limit",
		fix: "lock the account in %post (usermod --password '*' NAME) and log in with a key"},
	Password: {name: "plain-text password", why: "everyone who reads the image can use it", fix: afterBoot},
	RecipePassword: {name: "password in the recipe", why: "the image contains its recipe, and everyone who reads it can use the password",
		fix: "use a mirror that requires no password: your own, or a proxy that adds the password"},
	Token: {name: "service token", why: "everyone who reads the image can act as its owner",
		fix: "remove the file at the end of %post, and revoke the token if an image with it was served"},
	MungeKey:   {name: "munge key", why: "with it, everyone can impersonate any user to the services of the cluster", fix: afterBoot},
	ServiceKey: {name: "service key", why: "everyone who reads the image can use it", fix: afterBoot},
	Keytab:     {name: "Kerberos keytab", why: "with it, everyone can impersonate that host or service", fix: afterBoot},
	WiFiKey:    {name: "network password", why: "everyone who reads the image can join that network", fix: afterBoot},
	RandomSeed: {name: "random seed", why: "all nodes would start their random numbers from the same seed",
		fix: "remove it at the end of %post (" + rm + ")", remove: rm},
	MachineID: {name: "machine id", why: "all nodes would have the same id, which makes DHCP leases and logs collide", warning: true,
		fix: "empty it at the end of %post (: > FILE), so that each boot makes a new one", remove: ": > FILE"},
	StorageIdentity: {name: "name of a storage client", why: "storage servers take all nodes with the name for one, and end the session of one for another", warning: true,
		fix: "remove it at the end of %post (" + rm + "); each boot makes the node's own", remove: rm},
	Identity: {name: "identity of a machine", why: "all nodes would have the same one, and others cannot tell them apart", warning: true,
		fix: "remove it at the end of %post (" + rm + "), and let each node make its own", remove: rm},
	AuthorizedKeys: {name: "authorized keys", why: "the owners of the keys can log in to every node for as long as the image is used", warning: true,
		fix: "add them with a layer, which can be changed without a build"},
}

// Name returns the name of the kind for messages.
func (k Kind) Name() string { return texts[k].name }

// Why returns, in one line, the reason why it must not be in an image.
func (k Kind) Why() string { return texts[k].why }

// Fix returns, in one line, what to do about it. FILE stands for the path of the file.
func (k Kind) Fix() string { return texts[k].fix }

// Warning reports whether the kind is not a secret, so that it is reported but the image is not
// refused.
func (k Kind) Warning() bool { return texts[k].warning }
