package image

// Limits on what comes from outside. Beyond any of them the answer is the
// fault TooLarge; docs and tests refer to this one place.
const (
	// MaxReference bounds a reference as it is written, in bytes.
	MaxReference = 1024
	// MaxDocument bounds a manifest, an index and a configuration, in bytes.
	MaxDocument = 4 << 20
	// MaxLayers bounds the layers of an image: Docker's limit, and well below
	// overlayfs's 500.
	MaxLayers = 127
	// MaxIndexEntries bounds the manifests of an index.
	MaxIndexEntries = 1000
	// MaxIndexes bounds the indexes on the way to a manifest: one in another.
	MaxIndexes = 2

	// MaxLayerBytes bounds an uncompressed layer, and the files in it.
	MaxLayerBytes = 128 << 30
	// MaxLayerEntries bounds the tar entries of a layer.
	MaxLayerEntries = 1 << 20
	// MaxEntryXattrs and MaxEntryXattrBytes bound the extended attributes of
	// one entry.
	MaxEntryXattrs     = 256
	MaxEntryXattrBytes = 256 << 10
	// MaxPath bounds the name of an entry and the target of a link, in bytes
	// (PATH_MAX less the final NUL), and MaxName one element of it.
	MaxPath = 4095
	MaxName = 255

	// MaxRatio is how many times its own size data may grow when decompressed
	// or when its holes are filled; the first RatioFree bytes are free.
	MaxRatio  = 200
	RatioFree = 32 << 20
	// MaxZstdWindow bounds the memory that a zstd stream may ask for, in bytes.
	MaxZstdWindow = 64 << 20

	// MaxArchiveBytes bounds an archive of images, uncompressed.
	MaxArchiveBytes = 512 << 30
	// MaxArchiveEntries bounds its entries.
	MaxArchiveEntries = 20_000
	// MaxArchiveImages bounds the images in it.
	MaxArchiveImages = 1000
)
