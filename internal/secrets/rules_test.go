package secrets

import (
	enc "encoding/binary"
	"fmt"
	"strings"
	"testing"
)

// ruleData has, for the checks of each kind, texts in which a secret is found and is not found. The
// secrets are made up.
var ruleData = map[string]struct{ found, not []string }{
	"password-hash: a hash": {
		[]string{"root:$6$salt$" + secret + ":20780:0:::::\n"},
		[]string{"root:*:20780:0:::::\n", "# nobody\n", "a:x:0:\n"}},
	"password-hash: the hash of an old password": {[]string{"u:1000:1:$6$" + secret}, []string{"u:1000:1:\n"}},
	"password-hash: a hash of GRUB":              {[]string{"password_pbkdf2 root grub.pbkdf2.sha512.10000." + secret}, []string{"set superusers=root", "grub.pbkdf2.sha512.$rounds"}},
	"password: the option `password`":            {[]string{"//nas/x /mnt cifs user=u,password=" + secret + " 0 0", "Options=username=u,pass=" + secret}, []string{"//nas/x /mnt cifs credentials=/etc/x 0 0", "# //nas/x /mnt cifs password=x", "LABEL=x /pass ext4 defaults 0 0"}},
	"random-seed: a file that is not empty":      {[]string{secret}, []string{""}},
	"service-key: a file that is not empty":      {[]string{secret}, []string{""}},
	"munge-key: a file that is not empty":        {[]string{secret}, []string{""}},
	"ssh-host-key: a file that is not empty":     {[]string{secret}, []string{""}},
	"identity: a file that is not empty":         {[]string{secret}, []string{""}},
	"private-key: a file that is not empty":      {[]string{secret}, []string{""}},
	"token: a file that is not empty":            {[]string{secret}, []string{""}},
	"password: a file that is not empty":         {[]string{secret}, []string{""}},
	"machine-id: an id":                          {[]string{strings.Repeat("0a", 16) + "\n"}, []string{"", "\n", "uninitialized\n"}},
	"storage-identity: a line":                   {[]string{"nqn.2014-08.org.nvmexpress:uuid:0"}, []string{"", "\n"}},
	"storage-identity: `InitiatorName`":          {[]string{"# x\nInitiatorName=iqn.1993-08.org.debian:01:0"}, []string{"GenerateName=yes\n", "#InitiatorName=iqn.x\n"}},
	"identity: `default-duid`, `ADDRESS`":        {[]string{"default-duid \"\\000\";", "lease {\n", "ADDRESS=10.0.0.1"}, []string{"# lease\n"}},
	"identity: `oldEngineID`, `exactEngineID`": {
		[]string{"oldEngineID 0x80001f88\n"}, []string{"# oldEngineID 0x8\nengineBoots 1\n"}},
	"authorized-keys: a line":                        {[]string{"ssh-ed25519 AAAA x"}, []string{"# ssh-ed25519 AAAA\n"}},
	"keytab: a keytab":                               {[]string{"\x05\x02x"}, []string{"text"}},
	"private-key: a key in DER":                      {[]string{"\x30\x10\x02\x01\x00\x00\x00\x00\x00\x00"}, []string{"\x30\x82\x01\x00\x30\x82\x00\x00\x00", "text"}},
	"private-key: a PKCS 12 file":                    {[]string{"\x30\x82"}, []string{"text"}},
	"private-key: a key store with a key":            {[]string{javaStore(jks, 2, 2, 1), javaStore(jceks, 2, 3), javaStore(jks, 1, 1), "\x30\x82\x00\x00" + string(keyBag) + "\x00"}, []string{javaStore(jks, 2, 2, 2), javaStore(jks, 1, 2), "\x30\x82 certificates alone", "text that is long enough", "\xfe\xed\xfe\xed\x00\x00\x00\x02\xff\xff\xff\xff\x00"}},
	"private-key: `PrivateKey`, `PresharedKey`":      {[]string{"PrivateKey = " + secret}, []string{"PublicKey = x", "#PrivateKey = x", "PrivateKeyFile=/x"}},
	"password: `StoragePass`":                        {[]string{"StoragePass=" + secret}, []string{"#StoragePass=x", "StoragePass="}},
	"service-key: `key`":                             {[]string{"[client.x]\n\tkey = " + secret}, []string{"[client.x]\n\tcaps mon = \"allow r\""}},
	"token: `token`, `passwd`":                       {[]string{`{"token": "` + secret + `"}`}, []string{`{"token": ""}`}},
	"password: `auth_pass`":                          {[]string{"    auth_pass " + secret}, []string{"    # auth_pass x", "    auth_type PASS"}},
	"token: `client-key-data`, `token`, `password`":  {[]string{"    client-key-data: " + secret}, []string{"    client-key: /x"}},
	"token: `token`, `agent-token`":                  {[]string{"token: " + secret}, []string{"token-file: /x"}},
	"password: `password`, `k_g`":                    {[]string{"password " + secret}, []string{"# password x"}},
	"password: `bindpw`, `rootpwmodpw`, `tls_reqpw`": {[]string{"bindpw " + secret}, []string{"#bindpw x", "binddn cn=x"}},
	"password: `rootpw`":                             {[]string{"rootpw {SSHA}" + secret}, []string{"# rootpw x"}},
	"password: `ldap_default_authtok`":               {[]string{"ldap_default_authtok = " + secret}, []string{"ldap_default_authtok_type = password"}},
	"password: a secret":                             {[]string{": PSK \"" + secret + "\"", "x y : EAP \"" + secret + "\"", ": RSA key.pem \"" + secret + "\""}, []string{"# : PSK \"x\"", "include /var/lib/strongswan/ipsec.secrets.inc", ": RSA key.pem", ": RSA key.pem %prompt"}},
	"password: `secret`":                             {[]string{"    secret = " + secret}, []string{"    # secret = x", "    secrets {"}},
	"password: `createUser` with a password, `usmUser`, `rwcommunity6?`": {
		[]string{"createUser u SHA " + secret + " AES", "createUser -e 0x80 u MD5 " + secret, "usmUser 1 3 0x80 0x75", "rwcommunity " + secret},
		[]string{"# createUser u SHA x", "rouser u priv", "rocommunity public default", "#rwcommunity x"}},
	"password: `defPassphrase`, `defAuthPassphrase`, `defPrivPassphrase`, `defAuthLocalizedKey`, `defPrivLocalizedKey`": {
		[]string{"defAuthPassphrase " + secret}, []string{"# defPassphrase x", "defVersion 3"}},
	"service-key: `secret`":                                              {[]string{"key \"rndc-key\" {\n\tsecret \"" + secret + "\";\n};"}, []string{"// secret \"x\"\n"}},
	"password: a third word":                                             {[]string{"u * " + secret + " *", "u h \"" + secret + "\" *"}, []string{"# u * x *", "guest host \"*\" -", "* host \"\" *", "x host * -"}},
	"password: a line":                                                   {[]string{"u * " + secret + " *"}, []string{"# x\n\n"}},
	"password: `…password`":                                              {[]string{"node.session.auth.password = " + secret}, []string{"#node.session.auth.password = x"}},
	"password: `incominguser`, `outgoinguser`":                           {[]string{"    incominguser u " + secret}, []string{"    # incominguser u x"}},
	"password: `chap_password`, `chap_mutual_password`":                  {[]string{`"chap_password": "` + secret + `"`}, []string{`"chap_password": ""`}},
	"service-key: a key":                                                 {[]string{"1 SHA256 HEX:" + secret}, []string{"# 1 SHA1 x"}},
	"password: a password":                                               {[]string{"host:1:db:user:" + secret, "host u:" + secret, "https://x u " + secret}, []string{"# host:1:db:user:x", ""}},
	"password: `password`":                                               {[]string{"password = " + secret + "\nmachine x login u password " + secret}, []string{"# nothing", "user = u"}},
	"password: `AuthPass`":                                               {[]string{"AuthPass=" + secret}, []string{"#AuthPass=x"}},
	"password: `requirepass`, `masterauth`":                              {[]string{"requirepass " + secret}, []string{"# requirepass foobared"}},
	"password: a password in a URL":                                      {[]string{"deb https://u:" + secret + "@x.example.org y z"}, []string{"deb https://x.example.org:8080/y@z", "# deb https://u:p@x.example.org"}},
	"password: `password`, `proxy_password`, a password in a URL":        {[]string{"password=" + secret, "baseurl=https://u:" + secret + "@x.example.org"}, []string{"#password=x", "baseurl=https://x.example.org"}},
	"recipe-password: `password`, `proxy_password`, a password in a URL": {[]string{"password=" + secret}, []string{"gpgcheck=1"}},
	"recipe-password: a password in a URL or in `Setopt`":                {[]string{"MirrorURL: https://u:" + secret + "@x.example.org", "Setopt: x.password=" + secret}, []string{"MirrorURL: https://x.example.org", "Setopt: tsflags=nodocs"}},
	"password: a variable named `…PASSWORD`, `…SECRET`, `…TOKEN`, `…API_KEY`": {
		[]string{"DB_PASSWORD=" + secret, "export API_KEY='" + secret + "'", "signing.password=" + secret},
		[]string{"DB_PASSWORD=${X}", "TOKEN_FILE=/x", "#TOKEN=x1y2z3", "SECRET=changeme", "API_KEY=your-key", "PASSWORD=", "TOKEN=/run/token", "USE_TOKEN=true", "MAX_TOKEN=100"}},
	"password: a password in a URL, a variable named `…PASSWORD`, `…SECRET`, `…TOKEN`, `…API_KEY`": {
		[]string{"http_proxy=http://u:" + secret + "@x.example.org", "TOKEN=" + secret}, []string{"PATH=/bin", "http_proxy=http://x.example.org:3128"}},
	"token: `_authToken`, `_password`, `_auth`": {[]string{"//x.example.org/:_authToken=" + secret}, []string{"//x.example.org/:_authToken=${X}"}},
	"token: `token`":         {[]string{"token = \"" + secret + "\"\n\"token\": \"" + secret + "\""}, []string{"# token = x"}},
	"password: `<password>`": {[]string{"<password>" + secret + "</password>"}, []string{"<password>${env.X}</password>", "<username>u</username>"}},
	"token: a token":         {[]string{`"github-oauth": {"github.com": "` + secret + `"}`}, []string{`"http-basic": {}`}},
	"token: `auth`, `identitytoken`, `registrytoken`":             {[]string{`"auth": "` + secret + `"`}, []string{`"auths": {}`}},
	"token: `aws_secret_access_key`, `aws_session_token`":         {[]string{"aws_secret_access_key = " + secret}, []string{"aws_access_key_id = x", "region = x"}},
	"token: `refresh_token`, `private_key`":                       {[]string{`"refresh_token": "` + secret + `"`}, []string{`"client_id": "x"`}},
	"token: `password`, `application_credential_secret`, `token`": {[]string{"      password: " + secret}, []string{"      username: x"}},
	"token: `access-token`":                                       {[]string{"access-token: " + secret}, []string{"context: x"}},
	"token: `oauth_token`":                                        {[]string{"    oauth_token: " + secret}, []string{"    user: x"}},
	"password: `password`, `secret`, `secret_key`, `access_key`, `token`, `private_key`, `private_key_pem`":                       {[]string{`"password": "` + secret + `"`}, []string{`"version": "4"`}},
	"token: `secret_key`, `gs_secret_access_key`, `aws_secret_access_key`, `secret_access_key`, `pass`, `token`, `client_secret`": {[]string{"secret_access_key = " + secret}, []string{"type = s3"}},
	"token: a line":      {[]string{"u:" + secret}, []string{"# x\n"}},
	"token: `secretKey`": {[]string{`"secretKey": "` + secret + `"`}, []string{`"url": "x"`}},
	"token: `key`":       {[]string{`"key":"` + secret + `"`}, []string{`"username":"x"`}},
	"token: `apikey`":    {[]string{"apikey = " + secret}, []string{"format_type = ascii"}},
	"token: `accessToken`, `refreshToken`, `access_token`, `refresh_token`, `OPENAI_API_KEY`, `oauth_token`": {[]string{`"accessToken": "` + secret + `"`}, []string{`"expiresAt": 1`}},
	"wifi-key: `psk`, `wep-key`, `password`":                 {[]string{"psk=" + secret}, []string{"id=x", "psk-flags=1"}},
	"wifi-key: `psk`, `password`, `wep_key`, `sae_password`": {[]string{"\tpsk=\"" + secret + "\""}, []string{"\t#psk=\"x\""}},
	"wifi-key: `password`, `psk`":                            {[]string{"          password: " + secret}, []string{"      dhcp4: true"}},
	"wifi-key: `Passphrase`, `PreSharedKey`, `EAP-Password`": {[]string{"Passphrase=" + secret}, []string{"[Security]"}},
}

// javaStore makes a key store of Java with one entry for each tag.
func javaStore(magic uint32, version uint32, tags ...uint32) string {
	b := enc.BigEndian.AppendUint32(nil, magic)
	b = enc.BigEndian.AppendUint32(b, version)
	b = enc.BigEndian.AppendUint32(b, uint32(len(tags)))
	for _, tag := range tags {
		b = enc.BigEndian.AppendUint32(b, tag)
		b = append(b, "\x00\x05alias12345678"...)
		if tag == certificateEntry && version == 2 {
			b = append(b, "\x00\x05X.509"...)
		}
		b = append(b, "\x00\x00\x00\x03abc"...)
		if tag == privateEntry {
			b = append(b, 0, 0, 0, 0) // no certificates
		}
	}
	return string(b)
}

// TestRuleData: every rule finds what it is for, and not what resembles it.
func TestRuleData(t *testing.T) {
	used := map[string]bool{}
	for i := range rules {
		r := &rules[i]
		key := fmt.Sprintf("%s: %s", r.kind, r.check.what)
		data, ok := ruleData[key]
		if !ok {
			t.Errorf("no test data for %q (%s)", key, r.pattern)
			continue
		}
		if used[key] = true; len(data.found) == 0 || len(data.not) == 0 {
			t.Errorf("%s: test data of one sort", key)
		}
		found := false
		for _, text := range data.found {
			found = found || len(r.check.find([]byte(text))) > 0
		}
		if !found {
			t.Errorf("%s: %s finds none of %q", key, r.pattern, data.found)
		}
		for _, text := range data.not {
			if kind, lines := look([]*rule{r}, []byte(text)); len(lines) > 0 {
				t.Errorf("%s: %s finds %s in %q", key, r.pattern, kind, text)
			}
		}
	}
	for key := range ruleData {
		if !used[key] {
			t.Errorf("test data for %q, which is not a rule", key)
		}
	}
}

// TestPlaces: what was once overlooked, and what resembles it.
func TestPlaces(t *testing.T) {
	k := newKeys(t)
	secretFiles := map[string]string{
		"opt/app/testing/id":                  string(k.openssh),
		"usr/share/doc/site/key.pem":          string(k.pkcs8),
		"opt/slurm/etc/slurmdbd.conf":         "StoragePass=" + secret,
		"usr/local/etc/slurmdbd.conf":         "StoragePass=" + secret,
		"opt/slurm/23.11/etc/munge/munge.key": secret,
		"usr/local/etc/munge/munge.key":       secret,
		"srv/keys/munge.key":                  secret,
		"etc/ipsec.secrets":                   ": PSK \"" + secret + "\"\n",
		"etc/nslcd.conf":                      "bindpw " + secret,
		"etc/cifs/nas.cred":                   "username=u\npassword=" + secret + "\ndomain=D\n",
		"root/.smbcredentials":                "user=u\npass=" + secret,
		"etc/fstab":                           "//nas/x /mnt cifs user=u,password=" + secret + " 0 0\n",
		"var/lib/snmp/snmpd.conf":             "createUser u SHA " + secret + " AES\n",
		"etc/corosync/authkey":                secret,
		"etc/keepalived/keepalived.conf":      "vrrp_instance A {\n authentication {\n  auth_pass " + secret + "\n }\n}\n",
		"srv/app/.env":                        "PORT=1\nDB_PASSWORD=" + secret + "\n",
		"opt/app/prod.env":                    "API_TOKEN=" + secret + "\n",
		"opt/app/conf/server.jks":             javaStore(jks, 2, 2, 1),
		"root/.cache/huggingface/token":       secret,
		"usr/local/var/lib/seedrng/seed":      secret,
	}
	for name, text := range secretFiles {
		if found := inspect(name, rulesFor(name), []byte(text)); len(found) == 0 || found[0].Kind.Warning() {
			t.Errorf("%s: %v", name, found)
		}
	}
	for name, text := range map[string]string{
		"etc/nvme/hostnqn":                  "nqn.2014-08.org.nvmexpress:uuid:0\n",
		"etc/nvme/hostid":                   "0\n",
		"etc/iscsi/initiatorname.iscsi":     "InitiatorName=iqn.1993-08.org.debian:01:0\n",
		"var/lib/NetworkManager/secret_key": "nm-v2:x",
		"etc/rootovl/a/etc/nvme/hostid":     "0\n",
		"var/lib/dbus/machine-id":           "0\n",
	} {
		if found := inspect(name, rulesFor(name), []byte(text)); len(found) != 1 || !found[0].Kind.Warning() || !strings.Contains(found[0].Fix(), "/"+name) {
			t.Errorf("%s: %v", name, found)
		}
	}
	for name, text := range map[string]string{
		"etc/iscsi/initiatorname.iscsi": "GenerateName=yes\n",
		"etc/x/notes":                   "username=u\npassword=" + secret + "\nhost=x\nport=1\n",
		"etc/y/none":                    "username=u\npassword=$PASS\n",
		"etc/java/cacerts.jks":          javaStore(jks, 2, 2, 2),
		"srv/app/.env":                  "PORT=1\nDB_PASSWORD=${DB_PASSWORD}\nTOKEN_FILE=/run/x\n",
		"usr/lib/python3/dist-packages/x/munge.pyc":        "\x00",
		"opt/conda/lib/python3.11/test/keycert.pem":        string(k.pkcs8),
		"usr/local/go/src/crypto/x509/platform_key.pem":    string(k.pkcs8),
		"home/u/go/pkg/mod/x.example/y@v1.0.0/key_test.go": string(k.pkcs8),
	} {
		if found := inspect(name, rulesFor(name), []byte(text)); found != nil {
			t.Errorf("%s: %v", name, found)
		}
	}
}
