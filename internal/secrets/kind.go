package secrets

// Kind says what was found.
type Kind string

// The kinds there are.
const (
	HostKey        Kind = "ssh-host-key"
	PrivateKey     Kind = "private-key"
	PasswordHash   Kind = "password-hash"
	Password       Kind = "password"
	RecipePassword Kind = "recipe-password"
	Token          Kind = "token"
	MungeKey       Kind = "munge-key"
	ServiceKey     Kind = "service-key"
	Keytab         Kind = "keytab"
	WiFiKey        Kind = "wifi-key"
	RandomSeed     Kind = "random-seed"
	MachineID      Kind = "machine-id"
	AuthorizedKeys Kind = "authorized-keys"
)

// text is what there is to say about a kind.
type text struct {
	name, why, fix string
	warning        bool // no secret, but seldom meant to be in an image
}

var texts = map[Kind]text{
	HostKey: {name: "ssh host key", why: "with one key on all nodes, each can pass for every other",
		fix: "remove it at the end of %post, and have each node make its own at boot or get it as a layer"},
	PrivateKey: {name: "private key", why: "whoever reads the image can use it",
		fix: "remove it in %post, and give it to the nodes that need it as a layer"},
	PasswordHash: {name: "password hash", why: "it can be tried out at leisure by whoever reads the image",
		fix: "lock the account in %post (usermod --password '*' NAME) and log in by key, or bring the file as a layer"},
	Password: {name: "password in clear", why: "whoever reads the image can use it",
		fix: "remove it in %post, and bring the file as a layer"},
	RecipePassword: {name: "password in the recipe", why: "the image keeps its recipe, and whoever reads it can use the password",
		fix: "name a mirror that asks for none: one of your own, or a proxy that adds the password"},
	Token: {name: "token of a service", why: "whoever reads the image can act as its owner there",
		fix: "remove the file at the end of %post, and revoke the token if an image with it was served"},
	MungeKey: {name: "munge key", why: "with it everyone can be any user to the cluster's services",
		fix: "remove it in %post, and give it to the nodes as a layer"},
	ServiceKey: {name: "key of a service", why: "whoever reads the image can use it",
		fix: "remove it in %post, and give it to the nodes as a layer"},
	Keytab: {name: "Kerberos keytab", why: "with it everyone can be that host or service",
		fix: "remove it in %post, and give each node its own as a layer"},
	WiFiKey: {name: "network password", why: "whoever reads the image can join that network",
		fix: "remove the connection in %post, or bring it as a layer"},
	RandomSeed: {name: "random seed", why: "all nodes would start their random numbers with the same seed",
		fix: "remove it at the end of %post"},
	MachineID: {name: "machine id", why: "all nodes would have the same id, and fight over DHCP leases and logs", warning: true,
		fix: "empty it at the end of %post (: > /etc/machine-id), and each boot makes one"},
	AuthorizedKeys: {name: "authorized keys", why: "their owners get into every node, for as long as the image is used", warning: true,
		fix: "bring them as a layer, where they can be changed without a build"},
}

// Name is what people call it.
func (k Kind) Name() string { return texts[k].name }

// Why is the reason, in a line, why it should not be in an image.
func (k Kind) Why() string { return texts[k].why }

// Fix is what to do about it, in a line.
func (k Kind) Fix() string { return texts[k].fix }

// Warning reports a kind that is no secret: worth a word, and no reason to refuse the image.
func (k Kind) Warning() bool { return texts[k].warning }
