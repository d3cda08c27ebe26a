// Package depot serves a fleet's metadata and blobs to its devices over a
// broker, and announces to each what it shall run.
//
// It promises that a device gets blocks only of digests that its own director
// set names, that one device cannot starve the others (frames are sent in turn),
// and that a reply goes to the device whose topic asked, whatever the request
// says. It holds no state but the fleet's folder: it may be killed at any time,
// and devices ask its successor for what they miss.
//
// It is not trusted by the devices: they verify everything. Used by the fleet
// commands. Only this package may import mochi, the embedded broker for
// demonstrations and small sites.
package depot
