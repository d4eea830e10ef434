package bootstrap

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// docker unpacks an image of a registry. From is its name, with :TAG or @DIGEST; Namespace and
// Registry are put before it. Registries on loopback and in private networks may use plain HTTP;
// other registries may if Registry begins with http://.
func docker(ctx context.Context, j Job) error {
	return j.withRegistry(ctx, func(ref name.Reference, opts []remote.Option) error {
		img, err := remote.Image(ref, opts...)
		if err != nil {
			return err
		}
		return j.install(ctx, img)
	})
}

// withRegistry calls use with the image that the header names and the options for the registry.
// When it returns, all connections are closed.
func (j Job) withRegistry(ctx context.Context, use func(name.Reference, []remote.Option) error) error {
	ref, err := j.reference()
	if err != nil {
		return err
	}
	connections := http.DefaultTransport.(*http.Transport).Clone()
	connections.MaxIdleConnsPerHost = 8
	defer connections.CloseIdleConnections()
	j.logf("fetching %s", ref)
	err = use(ref, []remote.Option{
		remote.WithContext(ctx), remote.WithTransport(connections), remote.WithAuthFromKeychain(j.keychain()),
		remote.WithPlatform(platform()), remote.WithUserAgent("netroot"),
	})
	if ctx.Err() != nil {
		return fmt.Errorf("fetch %s: %w", ref, ctx.Err())
	}
	denied, ok := errors.AsType[*transport.Error](err)
	if ok && (denied.StatusCode == http.StatusUnauthorized || denied.StatusCode == http.StatusForbidden) {
		return fmt.Errorf("%w\n\tcheck the name of the image, or log in with `docker login`, `podman login` or `apptainer registry login`", err)
	}
	return err
}

// reference builds the name of an image as Apptainer does: REGISTRY/NAMESPACE/FROM.
func (j Job) reference() (name.Reference, error) {
	from, err := j.from("an image, for example `From: debian:12`")
	if err != nil {
		return nil, err
	}
	registry, plain := strings.CutPrefix(j.header("Registry"), "http://")
	registry = strings.TrimPrefix(registry, "https://")
	var parts []string
	for _, p := range []string{registry, j.header("Namespace"), from} {
		if p = strings.Trim(p, "/"); p != "" {
			parts = append(parts, p)
		}
	}
	var opts []name.Option
	if plain {
		opts = append(opts, name.Insecure)
	}
	ref, err := name.ParseReference(strings.Join(parts, "/"), opts...)
	if err != nil {
		return nil, fmt.Errorf("From: %w", err)
	}
	return ref, nil
}

// from returns the header's From. It removes the agent's name as a scheme, which some recipes have.
func (j Job) from(what string) (string, error) {
	from := j.header("From")
	for _, scheme := range []string{strings.ToLower(j.Stage.Agent()) + "://", "//"} {
		if rest, ok := strings.CutPrefix(from, scheme); ok {
			from = rest
			break
		}
	}
	if from == "" {
		return "", fmt.Errorf("From: is missing: name %s", what)
	}
	return from, nil
}

// keychain looks for credentials in the environment variables of Apptainer and Singularity, then in
// Apptainer's files, then in those of Docker and Podman.
func (j Job) keychain() authn.Keychain {
	chain := []authn.Keychain{}
	for _, prefix := range []string{"APPTAINER_DOCKER_", "SINGULARITY_DOCKER_"} {
		if user := j.getenv(prefix + "USERNAME"); user != "" {
			chain = append(chain, sameCredentials{authn.Basic{Username: user, Password: j.getenv(prefix + "PASSWORD")}})
		}
	}
	if home := j.getenv("HOME"); home != "" {
		for _, dir := range []string{".apptainer", ".singularity"} {
			chain = append(chain, keyFile(filepath.Join(home, dir, "docker-config.json")))
		}
	}
	return authn.NewMultiKeychain(append(chain, authn.DefaultKeychain)...)
}

// sameCredentials returns the same credentials for every registry.
type sameCredentials struct{ key authn.Basic }

func (k sameCredentials) Resolve(authn.Resource) (authn.Authenticator, error) { return &k.key, nil }

// keyFile is the path of a file in the format of Docker's config.json.
type keyFile string

func (k keyFile) Resolve(target authn.Resource) (authn.Authenticator, error) {
	text, err := os.ReadFile(string(k))
	if errors.Is(err, fs.ErrNotExist) {
		return authn.Anonymous, nil
	}
	if err != nil {
		return nil, err
	}
	var file struct {
		Auths map[string]authn.AuthConfig `json:"auths"`
	}
	if err := json.Unmarshal(text, &file); err != nil {
		return nil, fmt.Errorf("credentials %s: %w", string(k), err)
	}
	registry := target.RegistryStr()
	if registry == name.DefaultRegistry {
		registry = authn.DefaultAuthKey
	}
	for _, key := range []string{target.String(), registry, "https://" + registry} {
		if auth, ok := file.Auths[key]; ok {
			return authn.FromConfig(auth), nil
		}
	}
	return authn.Anonymous, nil
}

// platform is the platform that images must be made for.
func platform() v1.Platform { return v1.Platform{OS: "linux", Architecture: goarch} }
