//go:build cuda

package cuda

import (
	"embed"
	"errors"
	"fmt"
)

// Each .cu file beside this one, compiled by the Makefile.
//
//go:embed kernels/*.fatbin
var fatbins embed.FS

// kernel is a function af_NAME of one of the fatbins.
type kernel struct {
	name   string
	fn     cuFunction
	args   uint32 // bytes of its argument, as the compiler laid it out
	info   functionInfo
	shared uint32 // dynamic shared memory that launches may ask for
}

// loadModules loads every fatbin that has code for this GPU; those made for another kind of chip are left out. It also says which module
// has which kernel.
func loadModules() (modules []cuModule, places map[string]cuModule, err error) {
	files, err := fatbins.ReadDir("kernels")
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			for _, m := range modules {
				m.unload()
			}
			modules = nil
		}
	}()
	modules, places = []cuModule{}, map[string]cuModule{}
	for _, f := range files {
		image, err := fatbins.ReadFile("kernels/" + f.Name())
		if err != nil {
			return modules, nil, err
		}
		m, err := loadModule(image)
		if errors.Is(err, statusNoBinary) {
			continue
		}
		if err != nil {
			return modules, nil, fmt.Errorf("loading %s: %w", f.Name(), err)
		}
		modules = append(modules, m)
		names, err := m.names()
		if err != nil {
			return modules, nil, fmt.Errorf("listing the kernels of %s: %w", f.Name(), err)
		}
		for _, name := range names {
			places[name] = m
		}
	}
	return modules, places, nil
}

// kernel finds af_NAME, once. An error wraps errNoKernel when this GPU has none of that name. On the device's thread only.
func (d *device) kernel(name string) (*kernel, error) {
	if k := d.kernels[name]; k != nil {
		return k, nil
	}
	m, ok := d.places["af_"+name]
	if !ok {
		return nil, fmt.Errorf("kernel %s: %w %d.%d", name, errNoKernel, d.info.Major, d.info.Minor)
	}
	f, err := m.function("af_" + name)
	if err != nil {
		return nil, fmt.Errorf("kernel %s: %w", name, err)
	}
	k := &kernel{name: name, fn: f, shared: 48 << 10}
	if k.args, err = m.word("af_sizeof_" + name); err != nil {
		return nil, fmt.Errorf("kernel %s: size of its arguments: %w", name, err)
	}
	if k.info, err = f.info(); err != nil {
		return nil, fmt.Errorf("kernel %s: %w", name, err)
	}
	d.kernels[name] = k
	return k, nil
}

var errNoKernel = errors.New("there is none for compute capability")

// allowShared lets launches ask for so much dynamic shared memory.
func (k *kernel) allowShared(smem uint32) error {
	if smem <= k.shared {
		return nil
	}
	if err := k.fn.allowShared(smem); err != nil {
		return fmt.Errorf("kernel %s: %d bytes of shared memory: %w", k.name, smem, err)
	}
	k.shared = smem
	return nil
}
